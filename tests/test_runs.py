"""Run folders: named by their settings, never begun twice, and whole after a kill."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from prefloop import __version__
from prefloop.config import Config
from prefloop.errors import ConfigError, DataError, NotFoundError
from prefloop.runs import RunFolder, provenance, write_json


class Settings(Config):
    seed: int = 0
    data: Path = Path("a/b")


def test_a_run_is_named_by_stage_name_and_settings(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "lm", Settings(), name="first", data_hash="123")
    assert run.path == tmp_path / f"lm-first-{Settings().digest()}"
    assert Settings.load_values(json.loads((run.path / "config.json").read_text())) == Settings()
    kept = json.loads((run.path / "provenance.json").read_text())
    assert (kept["stage"], kept["name"], kept["data_hash"], kept["prefloop"]) == ("lm", "first", "123", __version__)
    assert run.checkpoints.is_dir()
    assert RunFolder.exists(tmp_path, "lm", Settings(), "first")
    assert not RunFolder.exists(tmp_path, "lm", Settings(seed=1), "first")
    assert not RunFolder.exists(tmp_path, "preference", Settings(), "first")


def test_a_run_is_begun_once_and_resumed_afterwards(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="start it without --resume"):
        RunFolder.create(tmp_path, "lm", Settings(), resume=True)
    assert list(tmp_path.iterdir()) == []
    first = RunFolder.create(tmp_path, "lm", Settings())
    first.log({"step": 1})
    with pytest.raises(ConfigError, match="exists already; go on with --resume"):
        RunFolder.create(tmp_path, "lm", Settings())
    again = RunFolder.create(tmp_path, "lm", Settings(), resume=True)
    assert again.path == first.path
    assert again.metrics() == [{"step": 1}]


def test_a_run_of_an_older_version_is_known_by_its_settings(tmp_path: Path) -> None:
    old = tmp_path / "lm-run-0123456789ab"  # named by another rule, begun before `data` was a setting
    old.mkdir()
    write_json(old / "config.json", {"seed": 4})
    assert RunFolder.create(tmp_path, "lm", Settings(seed=4), resume=True).path == old
    assert RunFolder.exists(tmp_path, "lm", Settings(seed=4))
    with pytest.raises(ConfigError, match="lm-run-0123456789ab exists already"):
        RunFolder.create(tmp_path, "lm", Settings(seed=4))
    said = r'lm-run-0123456789ab differs in seed \(4 there, 5 here\), data \(not set there, "x" here\): set that'
    with pytest.raises(NotFoundError, match=said):
        RunFolder.create(tmp_path, "lm", Settings(seed=5, data=Path("x")), resume=True)


def test_the_nearest_run_of_the_name_is_named(tmp_path: Path) -> None:
    far = RunFolder.create(tmp_path, "lm", Settings(seed=1, data=Path("x")))
    near = RunFolder.create(tmp_path, "lm", Settings(seed=2))
    RunFolder.create(tmp_path, "lm", Settings(seed=3), name="run-other")
    with pytest.raises(NotFoundError, match=f"{near.path.name} differs in seed"):
        RunFolder.create(tmp_path, "lm", Settings(seed=3), resume=True)
    assert far.path != near.path


def test_metrics_come_back_as_they_were_logged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.metrics() == []
    rows = [{"step": 1, "lm/loss": 0.1 + 0.2}, {"step": 2, "alarm/reason": "länger\nals sonst"}]
    for row in rows:
        run.log(row)
    assert run.metrics() == rows
    run.log({"step": 3, "value/explained_variance": math.nan})
    assert math.isnan(run.metrics()[-1]["value/explained_variance"])


def test_rewind_keeps_what_came_before_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 2, 3):
        run.log({"step": step})
    run.rewind(2)
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 2}]
    run.log({"step": 3})
    assert [row["step"] for row in run.metrics()] == [1, 2, 2, 3]
    run.rewind(-1)
    assert run.metrics() == []


def test_a_half_written_line_is_left_out_and_rewound_away(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log({"step": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lm/lo')
    assert run.metrics() == [{"step": 1}]
    run.rewind(1)
    run.log({"step": 2})
    assert run.metrics() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("garbage", [b"garbage", b'{"step": 2, "lm/lo', b"\xff\xfe\x00", b"3"])
def test_a_damaged_line_that_is_not_the_last_is_named(garbage: bytes, tmp_path: Path) -> None:
    run, file = RunFolder(tmp_path), tmp_path / "metrics.jsonl"
    run.log({"step": 1})
    with file.open("ab") as opened:
        opened.write(garbage + b"\n")
    run.log({"step": 3})
    before = file.read_bytes()
    said = rf"{file} is damaged in line 2 \(.*\); delete that line to go on without it\."
    with pytest.raises(DataError, match=said):
        run.metrics()
    with pytest.raises(DataError, match=said):
        run.rewind(1)
    assert file.read_bytes() == before


def test_a_run_whose_settings_are_damaged_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder.create(tmp_path, "lm", Settings())
    (run.path / "config.json").write_text('{\n  "seed": 0,\n  "da')
    for resume in (True, False):
        with pytest.raises(DataError, match=rf"{run.path / 'config.json'} is damaged in line 3 \(.*\); put it back"):
            RunFolder.create(tmp_path, "lm", Settings(), resume=resume)
    assert not caplog.records
    # Another run of the name is neither hindered by it nor mistaken for it.
    with pytest.raises(NotFoundError, match="start it without --resume"):
        RunFolder.create(tmp_path, "lm", Settings(seed=1), resume=True)
    other = RunFolder.create(tmp_path, "lm", Settings(seed=1))
    assert RunFolder.create(tmp_path, "lm", Settings(seed=1), resume=True).path == other.path
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert f"{run.path} is passed over: {run.path / 'config.json'} is damaged in line 3" in caplog.text


def test_rows_survive_kill_9(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from prefloop.runs import RunFolder\n"
        "run = RunFolder(Path(sys.argv[1]))\n"
        "for step in range(50): run.log({'step': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert [row["step"] for row in RunFolder(tmp_path).metrics()] == list(range(50))


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    write_json(file, {"name": "Zoë"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(file, {"name": "other", "value": object()})
    assert json.loads(file.read_text(encoding="utf-8")) == {"name": "Zoë"}


def test_provenance_names_what_a_result_hangs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = provenance()
    assert facts["packages"]["torch"].startswith("2.")
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    commit = facts["commit"]
    assert commit is None or (len(commit["id"]) == 40 and isinstance(commit["dirty"], bool))
    monkeypatch.setenv("PATH", "")  # no git: an installed package on a plain machine
    assert provenance()["commit"] is None
