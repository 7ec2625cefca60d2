"""`prefloop eval preference|scan|policy|best-of|optimisation|diagnosis|elo|cleanliness|worth`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from prefloop.cli.data import data_file, mode_option, tranche_option
from prefloop.cli.output import SEEDS, device_option, emit, json_option, note, workspace_option
from prefloop.errors import NotFoundError
from prefloop.schema import HELD_OUT_SHARE, Mode, Tranche
from prefloop.workspace import Workspace


@click.group("eval")
def eval_() -> None:
    """Evaluate a preference model, a policy, or snapshots against each other."""


@eval_.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--held-out-share", type=click.FloatRange(0.0, 1.0, min_open=True), default=HELD_OUT_SHARE, show_default=True
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Evaluate on the comparisons of this JSONL file (prompt, chosen, rejected; optional group) instead.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page too.")
@mode_option
@tranche_option
@device_option
@workspace_option
@json_option
def preference(
    models: tuple[str, ...],
    held_out_share: float,
    file: Path | None,
    html: Path | None,
    mode: str | None,
    tranche: str | None,
    device: str,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Accuracy, calibration and slices of each MODEL (a snapshot or folder) on held-out conversations.

    Several models are compared on the comparisons that all of them take: a matrix of model by mode and tranche, and
    the differences of every two with their intervals. With --file, model folders need no workspace.
    """
    from prefloop.evals import write_preference_reports
    from prefloop.loop.preference_evaluation import evaluate_models

    workspace = None
    try:
        workspace = Workspace(workspace_path)
    except NotFoundError:
        if file is None or not all(Path(model).is_dir() for model in models):
            raise
    with nullcontext() if workspace is None else workspace.store() as store:
        evaluated = evaluate_models(
            workspace,
            store,
            models,
            held_out_share=held_out_share,
            mode=Mode(mode) if mode else None,
            tranche=Tranche(tranche) if tranche else None,
            file=data_file(workspace, file) if workspace and file else file,
            device=device,
        )
    for sentence in evaluated.notes:
        note(sentence)
    if html is not None:
        write_preference_reports(
            evaluated.evaluations, html, evaluated.data, evaluated.notes, differences=evaluated.differences
        )
        note(f"Wrote {html}")
    numbers = {
        name: evaluation.model_dump(mode="json", exclude={"worst", "scores_by_tranche", "differences"})
        for name, evaluation in evaluated.evaluations.items()
    }
    differences = [one.model_dump(mode="json") for one in evaluated.differences]
    emit({"models": numbers, "differences": differences} if len(models) > 1 else numbers[models[0]], as_json)


@eval_.command()
@click.argument("scan_file", metavar="SCAN.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the file.")
@click.option("--resume", is_flag=True, help="Go on with the trainings that are not finished.")
@click.option("--dry-run", is_flag=True, help="Print the trainings and stop; writes nothing.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page here too.")
@workspace_option
@json_option
def scan(
    scan_file: Path,
    overrides: tuple[str, ...],
    resume: bool,
    dry_run: bool,
    html: Path | None,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Accuracy of preference models against data, size, mix or any setting: trains one for each value, seed and fold.

    The models are not kept; their numbers and a page are, in the run's folder.
    """
    from prefloop.loop.scan import ScanRun, run_scan, scan_plan, trainings

    settings = ScanRun.load([scan_file], overrides)
    if dry_run:
        emit({"settings": settings.model_dump(mode="json"), "trainings": list(trainings(scan_plan(settings)))}, as_json)
        return
    folder, scans = run_scan(Workspace(workspace_path), settings, html=html, resume=resume)
    note(f"Wrote {folder / 'report.html'}")
    emit({"run": str(folder), "scans": {name: one.model_dump(mode="json") for name, one in scans.items()}}, as_json)


@eval_.command()
@click.argument("model")
@click.option("--base", default="base", show_default=True, help="Snapshot to compare with.")
@click.option("--pm", "names", multiple=True, help="Preference models that score; repeat for several.")
@click.option("--prompts", type=click.IntRange(1), default=200, show_default=True)
@click.option("--max-response-tokens", type=click.IntRange(1), help="Cuts longer replies; by default each model's own.")
@click.option("--sandbox", is_flag=True, help="Fresh prompts of the tiny world; its known preference scores too.")
@click.option("--seed", type=SEEDS, default=0, show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page too.")
@device_option
@workspace_option
@json_option
def policy(
    model: str,
    base: str,
    names: tuple[str, ...],
    prompts: int,
    max_response_tokens: int | None,
    sandbox: bool,
    seed: int,
    html: Path | None,
    device: str,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Scores, win rates, KL, variety and length of MODEL (a snapshot or folder) beside its base.

    On held-out prompts, helpful and harmless ones apart; on held-out comparisons its accuracy by log-probability; and
    the judgments of people who compared the two.
    """
    from prefloop.evals import write_policy_page
    from prefloop.loop.policy_evaluation import compare_policies

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        found = compare_policies(
            workspace,
            store,
            model,
            base,
            names,
            prompts=prompts,
            max_response_tokens=max_response_tokens,
            seed=seed,
            is_sandbox=sandbox,
            device=device,
        )
    for sentence in found.notes:
        note(sentence)
    if html is not None:
        write_policy_page(found.evaluation, html, model, base, found.data, found.notes)
        note(f"Wrote {html}")
    emit(found.evaluation.model_dump(mode="json"), as_json)


@eval_.command("best-of")
@click.argument("model")
@click.option("--pm", "picker", required=True, help="Preference model that picks.")
@click.option("--judge", "judges", multiple=True, help="Preference models that judge what is picked; repeatable.")
@click.option("--beside", "policies", multiple=True, metavar="POLICY", help="Policies to set beside it; repeatable.")
@click.option("--of", "beside", type=click.IntRange(1), default=16, show_default=True, help="Best of how many, there.")
@click.option("--samples", type=click.IntRange(2, 1024), default=64, show_default=True, help="Replies to each prompt.")
@click.option("--prompts", type=click.IntRange(1), default=200, show_default=True)
@click.option("--max-response-tokens", type=click.IntRange(1), help="Cuts longer replies; by default each model's own.")
@click.option("--sandbox", is_flag=True, help="Fresh prompts of the tiny world; its known preference judges too.")
@click.option("--seed", type=SEEDS, default=0, show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page too.")
@device_option
@workspace_option
@json_option
def best_of(
    model: str,
    picker: str,
    judges: tuple[str, ...],
    policies: tuple[str, ...],
    beside: int,
    samples: int,
    prompts: int,
    max_response_tokens: int | None,
    sandbox: bool,
    seed: int,
    html: Path | None,
    device: str,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """The best of 1, 2, 4 ... replies of MODEL (a snapshot or folder), all from one sampling pass."""
    from prefloop.evals import write_best_of_report
    from prefloop.loop.policy_evaluation import best_of as evaluate

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        found = evaluate(
            workspace,
            store,
            model,
            picker,
            judges,
            policies,
            prompts=prompts,
            samples=samples,
            beside=beside,
            max_response_tokens=max_response_tokens,
            seed=seed,
            is_sandbox=sandbox,
            device=device,
        )
    for sentence in found.notes:
        note(sentence)
    if html is not None:
        write_best_of_report(found.evaluation, html, model, found.data, found.notes)
        note(f"Wrote {html}")
    emit(found.evaluation.model_dump(mode="json"), as_json)


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


@eval_.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--pm", "names", multiple=True, help="More preference models that score the kept replies; repeatable.")
@click.option("--gold", is_flag=True, help="Sandbox: the known preference scores them too.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page.")
@device_option
@workspace_option
@json_option
def optimisation(
    runs: tuple[str, ...],
    names: tuple[str, ...],
    gold: bool,
    html: Path | None,
    device: str,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Over-optimisation of policy RUNs: scores against sqrt(KL), fits, where PMs part, where to stop.

    A RUN is a folder below runs/ of the workspace, its name, or a path. Several are compared on one page.
    """
    from prefloop.loop.optimisation import measure_optimisation

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        result = measure_optimisation(workspace, store, runs, names, html, gold=gold, device=device)
    note(f"Wrote {result['report']}")
    emit(result, as_json)


@eval_.command()
@click.argument("run")
@click.option("--gold", is_flag=True, help="Sandbox: ask the known preference too.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Of the replies that are drawn.")
@device_option
@workspace_option
@json_option
def diagnosis(
    run: str, gold: bool, html: Path | None, seed: int, device: str, workspace_path: Path, as_json: bool
) -> None:
    """Is it the PM or the policy? What is wrong with a policy RUN, with evidence and what to do next."""
    from prefloop.loop.diagnosis import diagnose_in

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        result = diagnose_in(workspace, store, run, html=html, gold=gold, seed=seed, device=device)
    note(f"Wrote {result['report']}")
    emit(result, as_json)


@eval_.command()
@click.argument("run_file", metavar="CLEANLINESS.toml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the file.")
@click.option("--resume", is_flag=True, help="Go on with the trainings that are not finished.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page here too.")
@workspace_option
@json_option
def cleanliness(
    run_file: Path, overrides: tuple[str, ...], resume: bool, html: Path | None, workspace_path: Path, as_json: bool
) -> None:
    """What clean labels are worth: small PMs on flipped, dropped, down-weighted labels, and on each tranche.

    Also lists the comparisons whose labels a PM of the other folds doubts most, for people to read.
    """
    from prefloop.evals import write_cleanliness_report
    from prefloop.loop.cleanliness import CleanlinessRun, run_cleanliness

    settings = CleanlinessRun.load([run_file], overrides)
    folder, found, suspected = run_cleanliness(Workspace(workspace_path), settings, resume=resume)
    for page in (folder / "report.html", html):
        if page is not None:
            write_cleanliness_report(found, suspected, page, f"What cleanliness is worth: {settings.name}")
            note(f"Wrote {page}")
    result = {"run": str(folder), **found.model_dump(mode="json")}
    if as_json:
        emit({**result, "suspected_pairs": suspected}, as_json)
        return
    emit(result, as_json)
    note(f"{len(suspected)} pairs to read stand on the page and in {folder / 'report.json'}")


@eval_.command()
@click.argument("scan_run", metavar="SCAN_RUN", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(1), required=True, help="People who will judge.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), required=True, help="Of each of them.")
@click.option("--per-hour", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--price", type=click.FloatRange(0), default=0.0, show_default=True, help="Of an hour of one worker.")
@click.option("--budget", type=click.FloatRange(0), help="Stop where the money does.")
@json_option
def worth(
    scan_run: Path,
    workers: int,
    hours: float,
    per_hour: float,
    price: float,
    budget: float | None,
    as_json: bool,
) -> None:
    """What one more comparison is worth: from people, hours and money to comparisons to expected PM accuracy.

    SCAN_RUN is the folder of an `eval scan` over training_pairs with a fit (one scan for each tranche, say).
    """
    from prefloop.loop.worth import plan_collection

    emit(plan_collection(scan_run, workers, hours, per_hour, price, budget).model_dump(mode="json"), as_json)


COMMANDS = (eval_,)
