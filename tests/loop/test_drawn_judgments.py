"""Judgments that a run draws itself are drawn again with the threads that it began with: rounding decides on tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.loop import runs
from prefloop.loop.cleanliness import CleanlinessRun, run_cleanliness
from prefloop.loop.round import create_workspace
from prefloop.loop.scan import Scan, ScanRun, run_scan
from prefloop.train import preference
from prefloop.train.preference_settings import PreferenceRun

RUN = PreferenceRun(start=Path("pmp_sandbox_tiny"), sandbox_judgments=6, device="cpu")
COMMANDS: dict[str, tuple[Callable[..., Any], Any]] = {
    "train preference": (runs.run_preference, RUN),
    "eval scan": (run_scan, ScanRun(run=RUN, scans={"one": Scan(setting="epochs", values=(1,))})),
    "eval cleanliness": (run_cleanliness, CleanlinessRun(run=RUN, has_workers=False, has_tranches=False)),
}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("command", COMMANDS)
def test_they_are_drawn_with_the_threads_of_the_beginning(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_with: list[int] = []
    known_pairs = runs.known_pairs

    def watched(*arguments: Any) -> Any:
        drawn_with.append(torch.get_num_threads())
        return known_pairs(*arguments)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    run, settings = COMMANDS[command]
    workspace, _ = create_workspace(tmp_path / "ws")
    monkeypatch.setattr(runs, "known_pairs", watched)
    monkeypatch.setattr(preference, "start_model", killed)  # the first thing that training does after its threads
    for threads, resume in ((2, False), (1, True)):
        torch.set_num_threads(threads)
        with pytest.raises(KeyboardInterrupt):
            run(workspace, settings, resume=resume)
        assert torch.get_num_threads() == threads  # what runs next in this process has its own
    assert drawn_with == [2] * 4  # to train on and to be tested on, twice
