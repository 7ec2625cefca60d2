"""`prefloop prompts generate`: people's messages in, filtered generated ones out, kept in a run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import split, stored_pairs
from prefloop.models.devices import device_named
from prefloop.models.language import load_language_model
from prefloop.runs import RunFolder, write_json
from prefloop.schema import HELD_OUT_SHARE, Mode, PreferencePair
from prefloop.train.prompts import PromptsRun, generate_prompts
from prefloop.workspace import Workspace


def run_prompts(workspace: Workspace, run: PromptsRun) -> dict[str, Any]:
    """Writes `prompts.jsonl` into a run folder: one {"prompt": text} a line."""
    with workspace.store() as store:
        run = run.model_copy(update={"model": resolve_model(workspace, store, run.model)})
        training, held_out = split(stored_pairs(store), HELD_OUT_SHARE)
    folder = RunFolder.create(workspace.runs, "prompts", run, name=run.name)
    found = generate_prompts(
        run,
        load_language_model(run.model).to(device_named("auto")),
        _openings([pair for pair in training if pair.mode == Mode(run.mode)]),
        _openings(held_out),
    )
    file = folder.path / "prompts.jsonl"
    temporary = file.with_suffix(".writing")
    temporary.write_text(
        "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in found.prompts), encoding="utf-8"
    )
    os.replace(temporary, file)
    result = {
        "run": str(folder.path),
        "file": str(file),
        "kept": len(found.prompts),
        "candidates": found.candidates,
        "dropped": found.dropped,
        "examples": found.prompts[:5],
    }
    write_json(folder.path / "result.json", result)
    return result


def _openings(pairs: Sequence[PreferencePair]) -> list[str]:
    """The different first messages, in their order."""
    return list(dict.fromkeys(pair.context[0].text for pair in pairs if pair.context[0].role == "user"))
