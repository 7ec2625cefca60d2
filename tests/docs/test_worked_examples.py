"""Worked examples of the documents are run as they stand: files written, commands typed, pages there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli import main
from prefloop.store.formats import ranked_pairs, read_comparisons, read_ranked

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "preference-models.md").read_text(encoding="utf-8")


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    assert ended.value.code == 0, f"{shlex.join(words)}: {printed.err}"
    return json.loads(printed.out)


def test_the_example_of_preference_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = PAGE[PAGE.index("## A worked example") :]
    files = re.findall(r"`([a-z]+\.[a-z]+)`[^\n]*:\n\n((?:    [^\n]*\n)+)", example)
    assert [name for name, _ in files] == ["pmp.toml", "ranked.jsonl", "hf.toml", "hhh.jsonl", "scan.toml"]
    for name, text in files:
        (tmp_path / name).write_text(re.sub(r"^    ", "", text, flags=re.M), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in re.findall(r"^    prefloop (.+)$", example, re.M)]
    assert len(commands) == 9
    printed = [
        run([str(REPOSITORY / word) if word.startswith("tests/") else word for word in words] + ["--json"], capsys)
        for words in commands
    ]
    _, _, pmp, planned, trained, compared, hhh, scan, quality = printed
    assert pmp["pairs"] == 2 * (3 + 1)  # three pairs of three ranked answers and one of two, each both ways
    assert planned["settings"]["language_model_learning_rate"] == 3e-3  # of the run before
    assert trained["held_out_pairs"] == compared["models"]["hf"]["pairs"] == compared["models"]["pmp"]["pairs"]
    assert compared["differences"][0]["one"] == "pmp"
    assert set(hhh["slices"]["group"]) == {"honest", "helpful"}
    assert scan["scans"]["Data size"]["fit"]["over"] == "seeds"
    assert quality["counts"]["judgments"] == 24
    assert all((tmp_path / "W" / name).is_file() for name in ("models.html", "hhh.html", "scan.html"))


def test_the_rows_that_formats_are_explained_with_are_read(tmp_path: Path) -> None:
    formats = PAGE[PAGE.index("## Formats") : PAGE.index("## Mixes")]
    rows = re.findall(r"^    (\{.+\})$", formats, re.M)
    ranked, compared = tmp_path / "ranked.jsonl", tmp_path / "hhh.jsonl"
    ranked.write_text("".join(f"{row}\n" for row in rows if "question" in row), encoding="utf-8")
    compared.write_text("".join(f"{row}\n" for row in rows if "question" not in row), encoding="utf-8")
    assert len(list(ranked_pairs(read_ranked(ranked), is_binary=False))) == 4
    assert read_comparisons(compared).groups == ["honest"]
