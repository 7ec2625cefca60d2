"""A dry run prints what the run will use, and memory that ends is told in one sentence, in it as in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.cli import cli, main
from prefloop.errors import ModelError
from prefloop.loop.snapshots import model_path
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.train import policy
from prefloop.workspace import Workspace

PAIRS = Path(__file__).parents[1] / "fixtures" / "hh_pairs.jsonl"
RUN = f"""
policy = "{CHAT_MODEL}"
preference_model = "{PMP_MODEL}"
held_out_preference_model = "{PMP_MODEL}"
episodes = 32
episodes_per_batch = 8
max_response_tokens = 4
tokens_per_forward = 1024
snapshots = 2
workers = 1
device = "cpu"

[watching_preference_models]
again = "{PMP_MODEL}"
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("dry")
    cli.main(["init", str(folder / "ws")], standalone_mode=False)
    told = ["import", "hh-rlhf", str(PAIRS), "--mode", "helpful", "--workspace", str(folder / "ws")]
    cli.main(told, standalone_mode=False)
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    return ["train", "policy", str(folder / "run.toml"), "--json", "--workspace", str(folder / "ws")]


@pytest.mark.parametrize(
    ("stage", "run", "models", "texts"),
    [
        ("lm", 'start = "base"', ["start"], 22),  # of 24 conversations a tenth is held out
        ("lm", 'start = "base"\nsandbox_dialogues = 5', ["start"], 5),
        ("distill", 'teacher = "base"\nstudent = "base"\nprompt = "sandbox_hhh"', ["teacher", "student"], 22),
    ],
)
def test_language_models_are_found_as_in_a_run(
    stage: str,
    run: str,
    models: list[str],
    texts: int,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, workspace = tmp_path / "run.toml", Workspace(Path(command[-1]))
    file.write_text(run, encoding="utf-8")
    capsys.readouterr()
    words = ["train", stage, str(file), "--dry-run", "--json", "--workspace", str(workspace.path)]
    cli.main(words, standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    with workspace.store() as store:
        base = model_path(workspace, store.snapshot("base"))
    assert [told["settings"][name] for name in models] == [base] * len(models)
    assert told["texts"] == texts
    assert not list(workspace.runs.iterdir())
    file.write_text(run.replace('"base"', '"bass"'), encoding="utf-8")
    with pytest.raises(ModelError, match="'bass' is no snapshot"):
        cli.main(words, standalone_mode=False)


def test_the_models_that_will_be_used_are_there(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    cli.main([*command, "--dry-run"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["policy"] == str(tiny_model(CHAT_MODEL))
    assert told["settings"]["watching_preference_models"] == {"again": str(tiny_model(PMP_MODEL))}
    assert told["estimate"]["evaluations"] == 3  # the start and two snapshots


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_memory_that_ends(
    more: tuple[str, ...], command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: Any, **__: Any) -> None:
        torch.empty(2**47, dtype=torch.uint8)

    monkeypatch.setattr(policy, "evaluate_snapshot", hungry)
    with pytest.raises(SystemExit) as ended:
        main([*command, *more])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("prefloop: The run does not fit into memory: it asked for 131072.00 GiB more")
    assert "lower tokens_per_forward (now 1024) to 512" in said
    assert not list((Path(command[-1]) / "runs").iterdir())
