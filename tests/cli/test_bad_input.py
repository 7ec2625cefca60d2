"""Bad input gets one clear sentence on stderr and exit code 2."""

import contextlib
import gzip
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.errors import ModelError
from prefloop.models.language import load_language_model
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model


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


def test_a_share_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    workspace, pairs, run = tmp_path / "ws", tmp_path / "pairs.jsonl", tmp_path / "run.toml"
    assert prefloop("init", workspace).returncode == 0
    rows = [{side: f"\n\nHuman: Hello {i}\n\nAssistant: {side}" for side in ("chosen", "rejected")} for i in range(3)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert prefloop("import", "hh-rlhf", pairs, "--workspace", workspace).returncode == 0
    run.write_text(f'name = "pm"\nstart = "{tiny_model(PMP_MODEL)}"\nheld_out_share = 0.999\n', encoding="utf-8")
    result = prefloop("train", "preference", run, "--workspace", workspace)
    one_sentence(result, "3 comparisons leave none to train on at held_out_share = 0.999; lower it.")


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
def test_a_seed_that_no_generator_takes(workspace: Path, tmp_path: Path, seed: str) -> None:
    run = tmp_path / "run.toml"
    run.write_text(f'start = "{tiny_model(PMP_MODEL)}"\nsandbox_contrasts = 20\n', encoding="utf-8")
    result = prefloop("train", "preference", run, "--set", f"seed={seed}", "--workspace", workspace)
    one_sentence(result, f"seed = {seed} is wrong: input should be")
    assert not list((workspace / "runs").iterdir())
    one_sentence(prefloop("sandbox", "describe", "--seed", seed), "'--seed'", "0<=x<=4294967295")


def test_a_training_that_diverges_is_no_gate(tmp_path: Path) -> None:
    workspace, run = tmp_path / "ws", tmp_path / "run.toml"
    assert prefloop("init", workspace).returncode == 0
    run.write_text(
        f'start = "{tiny_model(PMP_MODEL)}"\nsandbox_contrasts = 40\nlearning_rate = 1e38\nwarmup_steps = 0\n'
        "pairs_per_step = 4\n",
        encoding="utf-8",
    )
    result = prefloop("train", "preference", run, "--workspace", workspace)
    assert result.returncode == 2  # 1 is the gate's alone
    assert "lower learning_rate (now 1e+38) and start again" in result.stderr.splitlines()[-1]


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
        (["eval", "preference", "base", "--device", "gpu"], ["'gpu' is no device", "cuda:1"]),
        (["eval", "policy", "base", "--pm", "base", "--device", "cuda"], ["no GPU", "'cpu'"]),
        (["eval", "best-of", "base", "--pm", "base", "--device", "cuda"], ["no GPU", "'cpu'"]),
        (["eval", "optimisation", "nothing", "--device", "gpu"], ["'gpu' is no device"]),
        (["eval", "diagnosis", "nothing", "--device", "gpu"], ["'gpu' is no device"]),
        (["quality", "--pm", "base", "--device", "gpu"], ["'gpu' is no device"]),
        (["snapshots", "deploy", "bass"], ["bass", "base"]),
        (["snapshots", "add", "new", "./nowhere"], ["nowhere"]),
        (["round", "resume"], []),
        (["no-such-command"], ["no-such-command"]),
        (["serve", "--port", "99999"], ["99999"]),
        (["round", "status"], ["prefloop round start"]),
        (["round", "promote"], ["prefloop round start"]),
        (["snapshots", "add", "../new", "./nowhere"], ["nowhere"]),
        (["export", "jsonl", "/proc/out.jsonl"], ["/proc/out.jsonl", "another place"]),
        (["export", "parquet", "/proc/out.parquet"], ["/proc/out.parquet", "another place"]),
    ],
)
def test_one_sentence(workspace: Path, arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    needs_workspace = arguments[0] not in ("no-such-command",)
    extra = ["--workspace", str(workspace)] if needs_workspace else []
    one_sentence(prefloop(*arguments, *extra), *words)


def test_an_unknown_key_names_the_nearest(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("sandbox_dialogues = 10\nlearning_rat = 1e-3\n")
    one_sentence(prefloop("train", "lm", file, "--workspace", workspace), "learning_rat", "learning_rate")
    file.write_text("sandbox_dialogues = 10\n[shape]\nhiden = 8\n")
    one_sentence(prefloop("train", "lm", file, "--workspace", workspace), "shape.hiden", "shape.hidden")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("name=../outside", ["name", "../outside"]),
        ("name=", ["name"]),
        ("seed=true", ["seed", "truth value"]),
        ("learning_rate=inf", ["learning_rate", "finite"]),
        ("steps=-1", ["steps", "-1", "--set"]),
        ("shape.heads=3", ["shape", "128 with 3 heads", "multiple of 6"]),
    ],
)
def test_a_wrong_setting_names_its_place(workspace: Path, tmp_path: Path, setting: str, words: list[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text("sandbox_dialogues = 10\n")
    one_sentence(prefloop("train", "lm", file, "--set", setting, "--dry-run", "--workspace", workspace), *words)


def test_an_unknown_device(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('policy = "a"\npreference_model = "b"\nheld_out_preference_model = "c"\ndevice = "cpuz"\n')
    one_sentence(prefloop("train", "policy", file, "--workspace", workspace), "cpuz", "cuda", "run.toml")


def test_a_refused_run_leaves_no_folder(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("sandbox_dialogues = 10\nsteps = 1\n")  # all ten are held out
    for _ in range(2):
        one_sentence(prefloop("train", "lm", file, "--workspace", workspace), "10 conversations")
    assert not list((workspace / "runs").iterdir())


BROKEN_MODELS: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "settings cut off": ("config.json", lambda data: data[:20]),
    "settings that are a list": ("config.json", lambda data: b"[]"),
    "a width that is a text": ("config.json", lambda data: data.replace(b'"hidden_size": 128', b'"hidden_size": "x"')),
    "weights cut off": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "weights that are none": ("model.safetensors", lambda data: b"x" * 999),
    "no weights": ("model.safetensors", lambda data: None),
    "a tokenizer cut off": ("tokenizer.json", lambda data: data[:20]),
}


def broken_model(folder: Path, file: str, change: Callable[[bytes], bytes | None]) -> Path:
    shutil.copytree(tiny_model(CHAT_MODEL), folder)
    changed = change((folder / file).read_bytes())
    (folder / file).unlink()
    if changed is not None:
        (folder / file).write_bytes(changed)
    return folder


@pytest.mark.parametrize("fault", BROKEN_MODELS)
def test_a_broken_model_becomes_no_snapshot(workspace: Path, tmp_path: Path, fault: str) -> None:
    model = broken_model(tmp_path / "model", *BROKEN_MODELS[fault])
    one_sentence(prefloop("init", tmp_path / "ws", "--model", model), str(model))
    assert not (tmp_path / "ws").exists()
    one_sentence(prefloop("snapshots", "add", "broken", model, "--workspace", workspace), str(model))
    listed = json.loads(prefloop("snapshots", "list", "--json", "--workspace", workspace).stdout)
    assert [row["name"] for row in listed["snapshots"]] == ["base"]


def test_weights_that_do_not_fit_are_not_filled_with_chance(tmp_path: Path) -> None:
    narrow = broken_model(
        tmp_path / "narrow", "config.json", lambda data: data.replace(b'"hidden_size": 128', b'"hidden_size": 64')
    )
    with pytest.raises(ModelError, match="do not fit its config"):
        load_language_model(narrow)
    nothing = broken_model(tmp_path / "nothing", "model.safetensors", lambda data: b"\x02" + bytes(7) + b"{}")
    with pytest.raises(ModelError, match="missing or of another shape"):
        load_language_model(nothing)


def test_a_model_of_the_other_kind(workspace: Path) -> None:
    one_sentence(
        prefloop("snapshots", "add", "pm", tiny_model(PMP_MODEL), "--workspace", workspace),
        "ForSequenceClassification",
        "--kind",
    )


def test_an_export_replaces_nothing_unasked(workspace: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("precious")
    one_sentence(prefloop("export", "jsonl", file, "--workspace", workspace), str(file), "--overwrite")
    assert file.read_text() == "precious"
    assert prefloop("export", "jsonl", file, "--overwrite", "--workspace", workspace).returncode == 0
    assert file.read_text().startswith('{"format": "prefloop"')


@pytest.mark.parametrize("format", ["hh-rlhf", "trl", "jsonl", "parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe binary \x80"])
def test_a_file_of_nothing_or_of_bytes(workspace: Path, tmp_path: Path, format: str, content: bytes) -> None:
    file = tmp_path / "file.jsonl"
    file.write_bytes(content)
    one_sentence(prefloop("import", format, file, "--workspace", workspace), "file.jsonl")
    one_sentence(prefloop("import", format, tmp_path, "--workspace", workspace), str(tmp_path))


def test_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    one_sentence(prefloop("quality", "--workspace", tmp_path), str(tmp_path), "prefloop init")


def test_a_report_on_a_study_or_by_a_model_that_is_not_there(workspace: Path) -> None:
    one_sentence(prefloop("quality", "--study", "pilot", "--workspace", workspace), "pilot", "there are: none")
    one_sentence(prefloop("quality", "--pm", "judge", "--workspace", workspace), "judge")
    one_sentence(prefloop("quality", "--pm", "base", "--workspace", workspace), "base", "gives no scores")


def test_a_workspace_is_not_made_twice(workspace: Path) -> None:
    one_sentence(prefloop("init", workspace), "exists")


def test_a_missing_model_leaves_no_workspace_behind(tmp_path: Path) -> None:
    one_sentence(prefloop("init", tmp_path / "ws", "--model", "./no/such/model"), "no/such/model")
    assert prefloop("init", tmp_path / "ws").returncode == 0


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "postgresql://nobody@127.0.0.1:1/none",
        "sqlite:////no/such/folder/x.db",
        "postgresql://u@localhost:port/x",
    ],
)
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
    assert json.loads(result.stdout)["settings"]["steps"] == 7


def test_a_closed_quality_gate_ends_with_one(workspace: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gated"
    shutil.copytree(workspace, copy)
    with (copy / "prefloop.toml").open("a", encoding="utf-8") as settings:
        settings.write('\n[quality]\ngate = ["agreement"]\n')
    result = prefloop("quality", "--workspace", copy, "--json")
    assert result.returncode == 1
    assert "quality.gate" in result.stderr
    assert "no judgments" in result.stderr
    assert json.loads(result.stdout)["gate"]
    assert prefloop("quality", "--workspace", workspace).returncode == 0
