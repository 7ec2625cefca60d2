"""`prefloop eval optimisation`: the gauges of policy runs. Finds runs and PMs; draws no conclusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, NotFoundError
from prefloop.evals.replies import scores_of
from prefloop.loop.runs import load_preference_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.reading import reads_reply
from prefloop.models.responses import Prompt
from prefloop.sandbox import Gold, world
from prefloop.schema import Message, Scorer
from prefloop.store import Store
from prefloop.train.gauges import EvaluatedReply, evaluated_replies, evaluation_prompts
from prefloop.train.optimisation import Optimisation, optimisation, read_optimisation
from prefloop.train.optimisation_report import write_optimisation_report
from prefloop.workspace import Workspace


def measure_optimisation(
    workspace: Workspace,
    store: Store,
    runs: Sequence[str],
    preference_models: Sequence[str],
    html: Path | None,
    *,
    gold: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """The gauges of each run, on a page (by default `optimisation.html` in the run's folder, or in `runs/`).

    Args:
        preference_models: further PMs that score the replies which the runs kept.
        gold: the tiny world's known preference scores them too (sandbox runs only).

    Errors:
        ConfigError: `gold` for prompts that are not of the tiny world.
        NotFoundError: no such run.
        DataError: a run without snapshots, one that kept no replies for further PMs, a PM that can read none, or a
            damaged file.
    """
    folders = [policy_run(workspace, run) for run in runs]
    judges = {name: load_preference_model(workspace, store, name, device) for name in preference_models}
    found = [_measured(folder, judges, Gold(world()) if gold else None) for folder in folders]
    path = html or (folders[0] if len(folders) == 1 else workspace.runs) / "optimisation.html"
    write_optimisation_report(found, path)
    return {"runs": {run.name: _summary(run) for run in found}, "report": str(path)}


def policy_run(workspace: Workspace, run: str) -> Path:
    """The folder of a policy run: a path, a folder below runs/, or a run's name where only one has it.

    Errors:
        NotFoundError: none, or several.
    """
    for folder in (Path(run), workspace.runs / run):
        if (folder / "config.json").is_file():
            return folder
    named = sorted(workspace.runs.glob(f"policy-{run}-*/config.json"))
    if len(named) == 1:
        return named[0].parent
    known = ", ".join(path.name for path in sorted(workspace.runs.glob("policy-*"))) or "none"
    count = f"{len(named)} runs are" if named else "no run is"
    raise NotFoundError(f"{count[0].upper()}{count[1:]} called {run!r} in {workspace.runs} (there are: {known}).")


def _measured(folder: Path, judges: Mapping[str, PreferenceModel], gold: Gold | None) -> Optimisation:
    if not judges and gold is None:
        return read_optimisation(folder)
    replies, prompts = evaluated_replies(folder), evaluation_prompts(folder)
    if not replies or not prompts:
        raise DataError(
            f"{folder} kept no replies with their prompts to score again; train it again, or leave --pm and --gold out."
        )
    if gold is not None:
        gold.require_known(prompts)
    replies, notes = _read(folder, replies, prompts, judges)
    found = optimisation(
        folder.name, {episodes: _scored(rows, prompts, judges, gold) for episodes, rows in replies.items()}
    )
    return found.model_copy(update={"notes": (*found.notes, *notes)})


def _read(
    folder: Path,
    replies: Mapping[int, Sequence[EvaluatedReply]],
    prompts: Sequence[Sequence[Message]],
    judges: Mapping[str, PreferenceModel],
) -> tuple[dict[int, list[EvaluatedReply]], list[str]]:
    """The replies to prompts on which the PMs can read the reply of every snapshot, and a note for each that cannot.

    Errors:
        DataError: a PM can read none.
    """
    left, notes = {row.prompt for rows in replies.values() for row in rows}, list[str]()
    for name, judge in judges.items():
        unread = {
            row.prompt
            for rows in replies.values()
            for row in rows
            if row.prompt in left and not reads_reply(judge, prompts[row.prompt], row.reply)
        }
        if unread == left:
            raise DataError(
                f"{name} reads {judge.max_tokens} tokens, and on each of the {len(left)} prompts of {folder} a reply "
                "with the turn before it is longer; take one with a longer window."
            )
        if unread:
            notes.append(
                f"{len(unread)} of {len(left)} prompts are left out of all snapshots, because {name} reads "
                f"{judge.max_tokens} tokens and some reply to them is longer with the turn before it."
            )
        left -= unread
    return {at: [row for row in rows if row.prompt in left] for at, rows in replies.items()}, notes


def _scored(
    rows: Sequence[EvaluatedReply],
    prompts: Sequence[Sequence[Message]],
    judges: Mapping[str, Scorer],
    gold: Gold | None,
) -> list[EvaluatedReply]:
    asked = [Prompt(tuple(prompts[row.prompt]), []) for row in rows]
    scores = scores_of(asked, [row.reply for row in rows], judges, gold)
    return [
        row.model_copy(update={"scores": {**row.scores, **{name: values[i] for name, values in scores.items()}}})
        for i, row in enumerate(rows)
    ]


def _summary(run: Optimisation) -> dict[str, Any]:
    """What the command prints; everything is in the JSON beside the page."""
    return {
        "snapshots": len(run.places),
        "root_kl_at_end": run.places[-1].root_kl,
        "episodes_per_root_kl": None
        if run.samples_per_root_kl is None
        else run.samples_per_root_kl.model_dump(mode="json"),
        "scorers": {
            track.name: {
                "role": track.role,
                "rise_at_end": track.rises[-1].model_dump(mode="json"),
                "linear_r_squared": None if track.linear is None else track.linear.fit.r_squared,
                "parted_at_episodes": None if track.parted is None else track.parted.episodes,
            }
            for track in run.scorers
        },
        "stop_at_episodes": None if run.advice is None else run.advice.at.episodes,
        "stop_at_end": None if run.advice is None else run.advice.is_end,
        "evidence": [] if run.advice is None else list(run.advice.evidence),
        "notes": list(run.notes),
    }
