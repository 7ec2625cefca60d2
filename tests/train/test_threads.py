"""A run killed before its first checkpoint goes on with the threads that it began with, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_distill
import test_train_preference
import torch
from test_distill import teacher
from test_train_preference import start

from prefloop.errors import DataError
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.distill import train_distillation
from prefloop.train.lm import LanguageRun, train_language_model
from prefloop.train.preference import train_preference
from prefloop.train.processes import Processes
from prefloop.train.threads import take_threads

__all__ = ["start", "teacher"]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _language(request: pytest.FixtureRequest, parent: Path) -> tuple[Callable[..., Any], RunFolder]:
    run = LanguageRun(start=request.getfixturevalue("start"), steps=4, tokens_per_step=64, held_out_conversations=0)
    texts = [(Message(role="user", text="old house"), Message(role="assistant", text="blue river"))] * 4
    folder = RunFolder.create(parent, "lm", run)
    return lambda **more: train_language_model(run, texts, folder, **more), folder


def _preference(request: pytest.FixtureRequest, parent: Path) -> tuple[Callable[..., Any], RunFolder]:
    run = test_train_preference.settings_for(request.getfixturevalue("start"))
    pairs = test_train_preference.make_pairs(8, seed=3)
    folder = RunFolder.create(parent, "preference", run)
    return lambda **more: train_preference(run, pairs, folder, **more), folder


def _distillation(request: pytest.FixtureRequest, parent: Path) -> tuple[Callable[..., Any], RunFolder]:
    run = test_distill.settings(request.getfixturevalue("teacher"))
    folder = RunFolder.create(parent, "distill", run)
    return lambda **more: train_distillation(run, test_distill.PROMPT, test_distill.TEXTS, folder, **more), folder


@pytest.mark.parametrize("made", [_language, _preference, _distillation])
def test_a_run_stopped_before_its_first_checkpoint(made: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seen = []

    def watched(steps: Any, **_: Any) -> Any:
        seen.append(torch.get_num_threads())
        if len(seen) == 1:
            raise KeyboardInterrupt
        return test_distill.quiet(steps)

    train, folder = made(request, tmp_path)
    torch.set_num_threads(2)
    with pytest.raises(KeyboardInterrupt):
        train(progress=watched)
    assert not any(folder.checkpoints.iterdir())
    torch.set_num_threads(1)
    train(progress=watched, resume=True)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1  # what runs next in this process has its own


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is damaged in line 1"), ('{"processes": 1}', "names no numbers"), ('{"processes": 1,\n', "in line 2")],
)
def test_a_damaged_note_is_named(text: str, said: str, tmp_path: Path) -> None:
    note = tmp_path / "threads.json"
    note.write_text(text)
    with pytest.raises(DataError, match=f"{note} .*{said}.*; delete it and resume, which goes on with the threads of"):
        take_threads(RunFolder(tmp_path))
    note.unlink()
    take_threads(RunFolder(tmp_path))


def test_other_processes_keep_their_own_threads(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    torch.set_num_threads(2)
    take_threads(folder)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "wait", lambda self: None)
        take_threads(folder, Processes(0, 2))
    assert torch.get_num_threads() == 1
