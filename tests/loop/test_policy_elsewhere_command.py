"""`train policy` with an engine elsewhere, through the real commands: both ends are prefloop's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.cli import cli, main
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL

PAIRS = Path(__file__).parents[1] / "fixtures" / "hh_pairs.jsonl"
RUN = f"""
policy = "{CHAT_MODEL}"
preference_model = "{PMP_MODEL}"
held_out_preference_model = "{PMP_MODEL}"
episodes = 16
episodes_per_batch = 8
minibatches = 1
epochs = 1
max_response_tokens = 12
snapshots = 1
workers = 1
device = "cpu"
sampler_folder = "weights"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace, a run's settings and the folder for its weights."""
    folder = tmp_path_factory.mktemp("elsewhere")
    cli.main(["init", str(folder / "ws")], standalone_mode=False)
    cli.main(
        ["import", "hh-rlhf", str(PAIRS), "--mode", "helpful", "--workspace", str(folder / "ws")], standalone_mode=False
    )
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    (folder / "weights").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """A server of its own, over an empty workspace of its own."""
    cli.main(["init", str(place / "there")], standalone_mode=False)
    command = [sys.executable, "-m", "prefloop", "model-server", "--port", "0", "--threads", "1"]
    command += ["--weights-folder", str(place / "weights"), "--workspace", str(place / "there")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        finally:
            process.terminate()


def train(place: Path, url: str, *more: str) -> None:
    words = ["train", "policy", str(place / "run.toml"), "--workspace", str(place / "ws"), "--json"]
    cli.main([*words, "--set", f"sampler_url={url}", *more], standalone_mode=False)


def test_a_dry_run_says_that_the_server_answers(place: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    train(place, url, "--dry-run")
    told = json.loads(capsys.readouterr().out)
    assert told["sampler"].startswith(f"{url} answers")
    assert told["estimate"]["batches"] == 2
    assert not list((place / "ws" / "runs").iterdir())


def test_a_run_and_one_whose_server_is_not_there(place: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    train(place, url)
    told = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (Path(told["run"]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["sampler/largest_difference"] < 1e-4 for row in rows if "score/train" in row] == [True, True]

    before = list((place / "ws" / "runs").iterdir())
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("train", "policy", str(place / "run.toml"), "--workspace", str(place / "ws"), "--set", "name=other"),
                *("--set", "sampler_url=http://127.0.0.1:9", "--set", "sampler_patience_seconds=0"),
            ]
        )
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"The sampling server at http://127.0.0.1:9 does not answer \(.*\)", said)
    assert list((place / "ws" / "runs").iterdir()) == before  # nothing half-done
