"""What watches a policy run besides its own numbers: more PMs, the replies behind each snapshot, equal steps of KL.

Responsible for the PMs that only watch, for keeping the evaluated replies and for saying when the policy has moved far
enough for a snapshot more. Knows no optimiser, and draws no conclusion (see `optimisation`).

    <run>/evaluations/
        prompts.jsonl               the evaluation prompts, one a line, in order
        episodes-00000768.jsonl     one `EvaluatedReply` a line, in the order of the prompts
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter

from prefloop.errors import DataError
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt
from prefloop.runs import RunFolder, read_rows
from prefloop.schema import Message, Noun

TRAIN, HELD_OUT, GOLD = "train", "held_out", "gold"
"""Names of the scorers that every run may have; those that watch besides have others."""


def scorer_role(name: str) -> str:
    """The PM behind a scorer's name as errors call it: its part in the run and the setting that names it."""
    roles = {
        TRAIN: "The PM trained against (preference_model)",
        HELD_OUT: "The held-out PM (held_out_preference_model)",
    }
    return roles.get(name, f"The watching PM {name!r} (watching_preference_models)")


def _names_are_free(watching: dict[str, Path]) -> dict[str, Path]:
    for name in watching:
        if name in (TRAIN, HELD_OUT, GOLD) or not re.fullmatch(r"\w+", name):
            raise ValueError(
                f"{name!r} cannot name a PM that watches; take letters, digits and _, but not {TRAIN}, {HELD_OUT} or "
                f"{GOLD}"
            )
    return watching


Watching = Annotated[dict[str, Path], AfterValidator(_names_are_free)]
"""Folders of PMs by the names that their scores go by."""

_CONTEXT = TypeAdapter(tuple[Message, ...])


class EvaluatedReply(Noun):
    """One reply of a snapshot to one evaluation prompt."""

    prompt: int = Field(description="place in prompts.jsonl")
    reply: str
    tokens: int = Field(description="its end token included")
    stopped: bool = Field(description="it ended with the end token")
    kl: float = Field(description="k1 estimate to the reference, nats")
    scores: Mapping[str, float] = Field(description="raw scores by scorer; 'gold' is the known preference")


class Gauges:
    """The gauges of one run.

    Args:
        watching: PMs by name that score every snapshot and are never trained against.
        root_kl_step: a snapshot is due whenever sqrt(KL) passes a multiple of this; 0 never.
        mark: the highest multiple passed so far, of a resumed run.
    """

    def __init__(
        self, folder: RunFolder, watching: Mapping[str, PreferenceModel], root_kl_step: float, mark: int = 0
    ) -> None:
        self.watching = dict(watching)
        self.mark = mark
        self._folder, self._snapshots = folder.path / "evaluations", folder.path / "snapshots"
        self._step = root_kl_step

    @staticmethod
    def load(paths: Mapping[str, Path], row_tokens: int, device: Any) -> dict[str, PreferenceModel]:
        """The watching PMs, without gradients, on a device."""
        loaded = {name: PreferenceModel.load(path, row_tokens=row_tokens).to(device) for name, path in paths.items()}
        for judge in loaded.values():
            judge.model.requires_grad_(False)
        return loaded

    def is_due(self, kl: float) -> bool:
        """True where sqrt(KL) of a batch has passed a multiple of the step for the first time."""
        if self._step <= 0 or not kl > 0:
            return False
        passed = int(math.sqrt(kl) / self._step)
        is_further, self.mark = passed > self.mark, max(passed, self.mark)
        return is_further

    def begin_anew(self) -> None:
        """Takes away what a run left that was killed before its first checkpoint: it may have had other prompts."""
        for folder in (self._folder, self._snapshots):
            if folder.is_dir():
                shutil.rmtree(folder)

    def keep(self, prompts: Sequence[Prompt], episodes: int, replies: Iterable[EvaluatedReply]) -> None:
        """Writes the replies of a snapshot, and the prompts where they are not yet there."""
        self._folder.mkdir(exist_ok=True)
        if not (self._folder / "prompts.jsonl").is_file():
            rows = ([message.model_dump(mode="json") for message in prompt.messages] for prompt in prompts)
            _write_lines(self._folder / "prompts.jsonl", (json.dumps(row, ensure_ascii=False) for row in rows))
        _write_lines(self._folder / f"episodes-{episodes:08d}.jsonl", (reply.model_dump_json() for reply in replies))


def evaluation_prompts(run: Path) -> list[tuple[Message, ...]]:
    """The evaluation prompts of a run folder; none where it kept none.

    Errors:
        DataError: the file is damaged.
    """
    file = run / "evaluations" / "prompts.jsonl"
    return read_rows(file, _CONTEXT.validate_json, _mended(file)) if file.is_file() else []


def evaluated_replies(run: Path) -> dict[int, list[EvaluatedReply]]:
    """The evaluated replies of a run folder by episodes, in order of episodes.

    Errors:
        DataError: a file is damaged, or holds not one reply to each of the prompts.
    """
    prompts = len(evaluation_prompts(run))
    found = {}
    for file in sorted((run / "evaluations").glob("episodes-*.jsonl")):
        replies = read_rows(file, EvaluatedReply.model_validate_json, _mended(file))
        if len(replies) != (prompts or len(replies)):
            raise DataError(
                f"{file} holds {len(replies)} replies to the {prompts} prompts of prompts.jsonl; {_mended(file)}."
            )
        found[int(file.stem.removeprefix("episodes-"))] = replies
    return found


def _mended(file: Path) -> str:
    return f"put it back from a copy, or delete {file.parent} to do without the replies that the run kept"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(temporary, path)
