"""`prefloop eval preference|policy|elo`."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.data import mode_option, tranche_option
from prefloop.cli.output import emit, json_option, note, workspace_option
from prefloop.errors import DataError
from prefloop.schema import Mode, Tranche
from prefloop.workspace import Workspace


@click.group("eval")
def eval_() -> None:
    """Evaluate a preference model, a policy, or snapshots against each other."""


@eval_.command()
@click.argument("model")
@click.option("--held-out-share", type=click.FloatRange(0.0, 1.0, min_open=True), default=0.05, show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page too.")
@mode_option
@tranche_option
@workspace_option
@json_option
def preference(
    model: str,
    held_out_share: float,
    html: Path | None,
    mode: str | None,
    tranche: str | None,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Accuracy, calibration and slices of MODEL (a snapshot or folder) on held-out conversations."""
    from prefloop.evals import evaluate_preference, write_preference_report
    from prefloop.loop.data import split, stored_pairs
    from prefloop.loop.runs import load_preference_model

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        pairs = stored_pairs(store, Mode(mode) if mode else None, Tranche(tranche) if tranche else None)
        held_out = split(pairs, held_out_share).held_out
        if not held_out:
            raise DataError(
                f"{len(pairs)} comparisons leave none to evaluate on at --held-out-share {held_out_share:g}; raise it."
            )
        scorer = load_preference_model(workspace, store, model)
        evaluation = evaluate_preference(
            scorer, held_out, store=store, model_id=model, data=f"held-out {held_out_share:g}"
        )
    if html is not None:
        write_preference_report(evaluation, html, model)
        note(f"Wrote {html}")
    emit(evaluation.model_dump(mode="json", exclude={"worst", "scores_by_tranche"}), as_json)


@eval_.command()
@click.argument("model")
@click.option("--base", default="base", show_default=True, help="Snapshot to compare with.")
@click.option("--pm", "names", multiple=True, help="Preference models that score; repeat for several.")
@click.option("--prompts", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@workspace_option
@json_option
def policy(
    model: str, base: str, names: tuple[str, ...], prompts: int, seed: int, workspace_path: Path, as_json: bool
) -> None:
    """PM scores, win rate and KL of MODEL (a snapshot or folder) beside its base, on held-out prompts."""
    from prefloop.loop.runs import compare_policies

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        emit(compare_policies(workspace, store, model, base, names, prompts, seed), as_json)


@eval_.command()
@click.option("--anchor", default="base", show_default=True, help="Snapshot whose rating is 0.")
@click.option("--by", "cluster_by", type=click.Choice(["conversation", "worker"]), default="conversation")
@workspace_option
@json_option
def elo(anchor: str, cluster_by: str, workspace_path: Path, as_json: bool) -> None:
    """Ratings of snapshots from the judgments that compare them."""
    from prefloop.evals import evaluate_elo

    with Workspace(workspace_path).store() as store:
        rated = evaluate_elo(store.pairs(), store.snapshot(anchor).id, cluster_by=cluster_by)  # type: ignore[arg-type]
        store.add_eval_results(rated.results())
        names = {snapshot.id: snapshot.name for snapshot in store.snapshots()}
    emit(
        {
            "ratings": {names[id]: rating.model_dump(mode="json") for id, rating in rated.table.ratings.items()},
            "judgments": rated.judgments,
            "dropped": dict(rated.dropped),
            "notes": list(rated.table.notes),
        },
        as_json,
    )


COMMANDS = (eval_,)
