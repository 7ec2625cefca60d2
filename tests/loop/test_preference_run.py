"""`train preference` by its held-out pairs: one that could not be evaluated is told before it trains, not after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import DataError
from prefloop.loop.round import create_workspace
from prefloop.loop.runs import estimate_preference_run, preference_data, run_preference
from prefloop.schema import split_place
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace

TELLING = [
    pytest.param(run_preference, id="run"),
    pytest.param(estimate_preference_run, id="dry run"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return create_workspace(tmp_path_factory.mktemp("held-out") / "ws")[0]


def settings(folder: Path, held_out_answer: str | None, **more: Any) -> PreferenceRun:
    """A run on 40 ranked questions, of which those that it holds out are answered so, or left out."""
    questions = [
        (text, "it is a number" if split_place(text) < 0.7 else held_out_answer)
        for text in (f"what is {n}" for n in range(40))
    ]
    rows = [{"question": text, "answers": [better, "go away"]} for text, better in questions if better is not None]
    file = folder / "ranked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given: dict[str, Any] = {
        "start": Path("pmp_sandbox_tiny"),
        "ranked_files": (file,),
        "ranked_binary": False,
        "held_out_share": 0.3,
        "pairs_per_step": 16,
        "device": "cpu",
    }
    return PreferenceRun(**(given | more))


@pytest.mark.parametrize("tell", TELLING)
def test_held_out_pairs_of_which_none_fits(tell: Callable[..., Any], workspace: Workspace, tmp_path: Path) -> None:
    run = settings(tmp_path, "very long " * 60, name="long", max_context_tokens=60)
    with pytest.raises(DataError, match=r"None of the \d+ held-out pairs fits max_context_tokens = 60; raise it\."):
        tell(workspace, run)
    assert not list(workspace.runs.glob("preference-long-*"))
    with workspace.store() as store:
        assert "long" not in [snapshot.name for snapshot in store.snapshots()]


@pytest.mark.parametrize("tell", TELLING)
def test_nothing_that_is_held_out(tell: Callable[..., Any], workspace: Workspace, tmp_path: Path) -> None:
    told = tell(workspace, settings(tmp_path, None, name="none"))
    assert told["held_out_pairs"] == 0
    [note] = told["notes"]
    assert note.startswith("No comparison falls into held_out_share = 0.3, so the model cannot be evaluated; raise it")
    asked = settings(tmp_path, None, name="unasked", held_out_share=0.0)
    assert tell(workspace, asked)["notes"] == []


def test_files_of_one_name_hold_different_questions(workspace: Workspace, tmp_path: Path) -> None:
    files = []
    for site in ("cooking", "physics"):
        (tmp_path / site).mkdir()
        files.append(tmp_path / site / "Posts.jsonl")
        files[-1].write_text(json.dumps({"question": f"why {site}?", "answers": ["so", "go away"]}), encoding="utf-8")
    run = settings(tmp_path, None, ranked_files=tuple(files), held_out_share=0.0)
    with workspace.store() as store:
        pairs = preference_data(store, run).training
    assert [pair.context[0].text for pair in pairs] == ["why cooking?", "why physics?"]
    assert len({pair.conversation_id for pair in pairs}) == 2
