"""Settings: what wins over what, what a path is relative to, and what a user is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from prefloop.config import Config, WorkspaceSettings
from prefloop.errors import ConfigError


class Optimizer(Config):
    learning_rate: float = Field(1e-3, gt=0.0)
    name: Literal["adam", "sgd"] = "adam"


class Run(Config):
    start: Path
    data: tuple[Path, ...] = ()
    held_out: Path | None = None
    steps: int = Field(10, ge=1)
    title: str = "run"
    optimizer: Optimizer = Optimizer()


def written(folder: Path, text: str, name: str = "run.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_later_wins(tmp_path: Path) -> None:
    first = written(tmp_path, 'start = "m"\nsteps = 20\n[optimizer]\nlearning_rate = 0.1\nname = "sgd"', "a.toml")
    second = written(tmp_path, "steps = 30\n[optimizer]\nlearning_rate = 0.2", "b.toml")
    run = Run.load([first, second], ["steps=40"])
    assert (run.steps, run.optimizer.learning_rate, run.optimizer.name, run.title) == (40, 0.2, "sgd", "run")


def test_paths_are_relative_to_the_file_that_they_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = written(
        tmp_path / "recipe", 'start = "../model"\ndata = ["a.jsonl", "/absolute/b.jsonl"]\nheld_out = "~/c"'
    )
    monkeypatch.setenv("HOME", "/home/someone")
    run = Run.load([below])
    assert run.start.resolve() == tmp_path / "model"
    assert run.data == (tmp_path / "recipe" / "a.jsonl", Path("/absolute/b.jsonl"))
    assert run.held_out == Path("/home/someone/c")


def test_a_path_of_the_command_line_is_relative_to_where_one_is(tmp_path: Path) -> None:
    run = Run.load([written(tmp_path, 'start = "m"')], ["start=other/model"])
    assert run.start == Path("other/model")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps=3", {"steps": 3}),
        ("title=three", {"title": "three"}),  # a bare word is a string
        ("title='3'", {"title": "3"}),
        ("title=a=b", {"title": "a=b"}),
        (" optimizer.name =sgd", {"optimizer": {"name": "sgd"}}),
        ("data=['x', 'y']", {"data": ["x", "y"]}),
    ],
)
def test_overrides(override: str, expected: dict[str, Any]) -> None:
    assert Run.load([], ["start=m", override]) == Run.load_values({"start": "m"} | expected)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("start = 'm'\nstep = 3", [], "Unknown key 'step' in Run; did you mean 'steps'?"),
        ("start = 'm'\n[optimizer]\nlearning_rat = 3", [], "did you mean 'optimizer.learning_rate'?"),
        ("start = 'm'", ["optimiser.name=sgd"], "Unknown key 'optimiser' in Run; did you mean 'optimizer'?"),
        ("start = 'm'\nsteps = 0", [], "steps = 0 is wrong: input should be greater than or equal to 1; mend it in "),
        ("start = 'm'\nsteps = true", [], "steps = True is wrong: a truth value cannot stand here"),
        ("start = 'm'\noptimizer.learning_rate = inf", [], "learning_rate = inf is wrong: input should be a finite"),
        ("start = 'm'", ["steps=0"], "run.toml and --set."),
        ("start = 'm'\nsteps = 'many'", [], "steps = 'many' is wrong: input should be a valid integer"),
        (
            "start = 'm'",
            ["optimizer.name=adagrad"],
            "optimizer.name = 'adagrad' is wrong: input should be 'adam' or 'sgd'",
        ),
        ("start = 'm'", ["optimizer=3"], "optimizer = 3 is wrong: input should be a valid dictionary"),
        ("steps = 3", [], "Run needs 'start'; set it in the file or with --set start=..."),
        ("start = ", [], "run.toml is not valid TOML: "),
        ("start = 'm'", ["steps"], "--set 'steps' is not of the form key=value"),
        ("start = 'm'", ["=3"], "--set '=3' is not of the form key=value"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        Run.load([written(tmp_path, text)], overrides)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_mark_before_the_first_letter_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_text("start = 'm'\r\n", encoding="utf-8-sig", newline="")
    assert Run.load([tmp_path / "marked.toml"]) == Run.load([written(tmp_path, "start = 'm'")])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml does not exist; give the path of a TOML file"):
        Run.load([tmp_path / "no.toml"])
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Run.load([tmp_path])
    (tmp_path / "latin.toml").write_bytes(b"title = 'caf\xe9'")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        Run.load([tmp_path / "latin.toml"])


def test_settings_do_not_change() -> None:
    run = Run(start=Path("m"))
    with pytest.raises(ValueError, match="frozen"):
        run.steps = 3  # type: ignore[misc]


def test_the_digest_names_the_settings_and_nothing_else() -> None:
    run = Run(start=Path("m"))
    assert run.digest() == Run.load([], ["start=m", "steps=10"]).digest()
    assert run.digest() != Run.load([], ["start=m", "steps=11"]).digest()
    assert run.digest() != Run.load([], ["start=m", "optimizer.name=sgd"]).digest()
    assert run.digest() == Run.load([], ["start=m", "steps=10", f"optimizer.name={run.optimizer.name}"]).digest()
    assert len(run.digest()) == 12
    assert set(run.digest()) <= set("0123456789abcdef")


@given(
    st.builds(
        Run,
        start=st.sampled_from([Path("a"), Path("/b/c")]),
        steps=st.integers(1, 2**60),
        title=st.text(),
        optimizer=st.builds(Optimizer, learning_rate=st.floats(1e-300, 1e300)),
    )
)
def test_what_is_written_loads_again(run: Run) -> None:
    assert Run.load_values(run.model_dump(mode="json")) == run


def test_an_empty_workspace_file_is_enough(tmp_path: Path) -> None:
    settings = WorkspaceSettings.load([written(tmp_path, "", "prefloop.toml")])
    assert settings == WorkspaceSettings()
    assert settings.serve.host == "127.0.0.1"  # never the whole network without being asked
