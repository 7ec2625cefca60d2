"""Bad input gets one clear sentence on stderr and exit code 2."""

import contextlib
import gzip
import io
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prefloop.cli import main


def prefloop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a call in this process: the same parsing, output and exit code."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def test_the_real_command_ends_the_same_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefloop", "quality", "--workspace", str(tmp_path)]
    one_sentence(subprocess.run(command, capture_output=True, text=True, timeout=120), "prefloop init")


def one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, nothing on stdout, a single line that holds all the words."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().split("\n")
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("prefloop: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "ws"
    result = prefloop("init", folder, "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["snapshot"] == "base"
    return folder


def test_a_broken_file_is_refused_whole(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.jsonl.gz"
    good = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"}
    with gzip.open(file, "wt") as lines:
        lines.write(json.dumps(good) + "\n" + json.dumps({"chosen": 3, "rejected": "x"}) + "\n")
    one_sentence(prefloop("import", "hh-rlhf", file, "--workspace", workspace), "broken.jsonl.gz", "2", "chosen")
    report = json.loads(prefloop("quality", "--workspace", workspace, "--json").stdout)
    assert "hello" not in json.dumps(report)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "hh-rlhf", "no-such-file.jsonl"], ["no-such-file.jsonl"]),
        (["train", "lm", "missing.toml"], ["missing.toml"]),
        (["eval", "preference", "nobody"], []),
        (["snapshots", "deploy", "bass"], ["bass", "base"]),
        (["snapshots", "add", "new", "./nowhere"], ["nowhere"]),
        (["round", "resume"], []),
        (["no-such-command"], ["no-such-command"]),
        (["serve", "--port", "99999"], ["99999"]),
    ],
)
def test_one_sentence(workspace: Path, arguments: list[str], words: list[str]) -> None:
    needs_workspace = arguments[0] not in ("no-such-command",)
    extra = ["--workspace", str(workspace)] if needs_workspace else []
    one_sentence(prefloop(*arguments, *extra), *words)


def test_an_unknown_key_names_the_nearest(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("sandbox_dialogues = 10\nlearning_rat = 1e-3\n")
    one_sentence(prefloop("train", "lm", file, "--workspace", workspace), "learning_rat", "learning_rate")
    file.write_text("sandbox_dialogues = 10\n[shape]\nhiden = 8\n")
    one_sentence(prefloop("train", "lm", file, "--workspace", workspace), "shape.hiden", "shape.hidden")


def test_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    one_sentence(prefloop("quality", "--workspace", tmp_path), str(tmp_path), "prefloop init")


def test_a_workspace_is_not_made_twice(workspace: Path) -> None:
    one_sentence(prefloop("init", workspace), "exists")


def test_a_missing_model_leaves_no_workspace_behind(tmp_path: Path) -> None:
    one_sentence(prefloop("init", tmp_path / "ws", "--model", "./no/such/model"), "no/such/model")
    assert prefloop("init", tmp_path / "ws").returncode == 0


@pytest.mark.parametrize("url", ["nonsense", "postgresql://nobody@127.0.0.1:1/none", "sqlite:////no/such/folder/x.db"])
def test_a_wrong_database_url(tmp_path: Path, url: str) -> None:
    assert prefloop("init", tmp_path / "ws").returncode == 0
    (tmp_path / "ws" / "prefloop.toml").write_text(f'[database]\nurl = "{url}"\n')
    one_sentence(prefloop("quality", "--workspace", tmp_path / "ws"))


def test_a_port_in_use(workspace: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one_sentence(prefloop("serve", "--port", port, "--workspace", workspace), str(port), "--port")


def test_dry_run_prints_the_resolved_settings(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("sandbox_dialogues = 10\n")
    result = prefloop("train", "lm", file, "--set", "steps=7", "--dry-run", "--json", "--workspace", workspace)
    assert json.loads(result.stdout)["steps"] == 7
