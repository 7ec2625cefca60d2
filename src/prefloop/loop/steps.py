"""The steps of a round: each takes the bench it works on and returns facts for the steps after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from prefloop.errors import DataError, StateError
from prefloop.loop.assistants import trained_alone
from prefloop.loop.data import half_of, keep_pairs, prompts_of, stored_pairs
from prefloop.loop.runs import fingerprint
from prefloop.loop.serving import publish, served
from prefloop.loop.settings import RoundSettings
from prefloop.loop.side_by_side import side_by_side
from prefloop.loop.snapshots import model_path, register
from prefloop.runs import RunFolder
from prefloop.sandbox import Gold, Population, Traits, contrast_pairs, draw_prompts, world
from prefloop.sandbox.contrasts import PRE_TRAINING_WAYS
from prefloop.sandbox.tiny import PMP_MODEL, tiny_model
from prefloop.sandbox.workers import Assignment, Work, work
from prefloop.schema import ComparisonState, Mode, PreferencePair, Round, Snapshot, SnapshotShare, Study, Tranche
from prefloop.store import Store
from prefloop.workspace import Workspace

if TYPE_CHECKING:
    from prefloop.train.preference_settings import PreferenceRun

Tell = Callable[[str], None]
EVALUATION_SEED = 1_000_003
"""Added to the round's seed for everything that is held out."""


@dataclass(frozen=True)
class Bench:
    """What a step works on."""

    workspace: Workspace
    store: Store
    settings: RoundSettings
    round: Round
    tell: Tell

    @property
    def is_sandbox(self) -> bool:
        """Simulated people judge, so the truth is known."""
        return self.settings.collection.people == "simulated"

    def snapshot(self, fact: str) -> Snapshot:
        """The snapshot that an earlier step noted."""
        return self.store.snapshot(self.round.facts[fact])

    def path(self, fact: str) -> Path:
        return Path(model_path(self.workspace, self.snapshot(fact)))

    def name(self, what: str) -> str:
        """Names of this round's snapshots, studies and runs."""
        return f"round{self.round.number}-{what}"


def population(settings: RoundSettings) -> Population:
    """The simulated workforce of a round."""
    collection = settings.collection
    typical = Traits(
        temperature=collection.temperature,
        careless=collection.careless,
        seconds_per_judgment=collection.seconds_per_judgment,
    )
    return Population(workers=collection.workers, typical=typical, seed=settings.seed)


def collect(bench: Bench) -> dict[str, Any]:
    """Judgments on the deployed snapshot, in helpful and in red-team mode."""
    collection = bench.settings.collection
    start = bench.snapshot("start_id")
    is_first = bench.round.number == 1
    targets = {Mode.HELPFUL: collection.helpful_comparisons, Mode.RED_TEAM: collection.red_team_comparisons}
    studies = [
        _study(
            bench,
            bench.name(mode.value),
            mode=mode,
            tranche=Tranche.BASE if is_first else Tranche.ONLINE,
            snapshots=(SnapshotShare(snapshot_id=start.id),),
            overlap=collection.overlap,
            turns_per_conversation=collection.turns_per_conversation,
            target_comparisons=target,
        )
        for mode, target in targets.items()
        if target
    ]
    _judge(bench, studies)
    return {"study_ids": [study.id for study in studies]}


def quality(bench: Bench) -> dict[str, Any]:
    """The quality report of everything collected so far."""
    from prefloop.quality import quality_report, write_html

    report = quality_report(bench.store, limits=bench.workspace.settings.quality)
    path = bench.workspace.path / "quality.html"
    write_html(report, path)
    return {"quality_report": str(path.relative_to(bench.workspace.path))}


def preference(bench: Bench) -> dict[str, Any]:
    """Two PMs from the same start on the two halves of all conversations so far (paper 4.2, 4.5)."""
    from prefloop.train.preference_settings import PreferenceRun

    start = tiny_model(PMP_MODEL) if bench.is_sandbox else bench.path("start_id")
    pairs = stored_pairs(bench.store)
    settings = bench.settings.preference.model_dump()
    mixed_in = _pre_training_pairs(bench, settings.pop("pre_training_pairs"))
    halves = {half: [pair for pair in pairs if half_of(pair) == half] for half in ("a", "b")}
    work: list[tuple[PreferenceRun, list[PreferencePair], RunFolder, bool]] = []
    for half, part in halves.items():
        if not part:
            raise DataError(f"Half {half} of {len(pairs)} judged comparisons is empty; collect more conversations.")
        run = PreferenceRun(
            name=bench.name(f"pm-{half}"),
            start=start,
            held_out_share=0.0,  # a round evaluates on fresh prompts, not on a part of what was judged
            seed=bench.settings.seed,
            **settings,
        )
        data = part + mixed_in
        resume = RunFolder.exists(bench.workspace.runs, "preference", run, run.name)
        folder = RunFolder.create(
            bench.workspace.runs, "preference", run, name=run.name, resume=resume, data=fingerprint(data)
        )
        keep_pairs(folder, part)
        work.append((run, data, folder, resume))
    facts: dict[str, Any] = {}
    for (half, part), (run, _, folder, _), path in zip(
        halves.items(), work, side_by_side(_train_preference, work), strict=True
    ):
        snapshot = register(
            bench.workspace, bench.store, run.name, path, kind="preference_model", run_id=folder.path.name
        )
        facts |= {f"pm_{half}_id": snapshot.id, f"pm_{half}_pairs": len(part)}
    return facts


def _train_preference(
    place: int, run: PreferenceRun, pairs: list[PreferencePair], folder: RunFolder, resume: bool
) -> Path:
    from prefloop.train.preference import train_preference

    return train_preference(run, pairs, folder, resume=resume, progress=partial(tqdm, position=place)).path


def _pre_training_pairs(bench: Bench, count: int) -> list[PreferencePair]:
    if not bench.is_sandbox:
        return []
    return list(contrast_pairs(world(), bench.settings.seed + EVALUATION_SEED, count, ways=PRE_TRAINING_WAYS))


def policy(bench: Bench) -> dict[str, Any]:
    """PPO from the start against PM a, watched by PM b, which picks the snapshot."""
    from prefloop.train.policy import train_policy
    from prefloop.train.policy_settings import PolicyRun

    if sentence := trained_alone(bench.snapshot("start_id")):  # again: people may have judged for weeks
        bench.tell(sentence)
    settings = bench.settings.policy.model_dump()
    extra, held_out = settings.pop("extra_prompts"), settings.pop("evaluation_prompts")
    run = PolicyRun(
        name=bench.name("policy"),
        policy=bench.path("start_id"),
        preference_model=bench.path("pm_a_id"),
        held_out_preference_model=bench.path("pm_b_id"),
        seed=bench.settings.seed,
        **settings,
    )
    pairs = stored_pairs(bench.store)
    prompts = prompts_of(pairs)
    if bench.is_sandbox:
        prompts += draw_prompts(world(), bench.settings.seed, extra, exclude=prompts)
        evaluation = draw_prompts(world(), bench.settings.seed + 2 * EVALUATION_SEED, held_out, exclude=prompts)
    else:
        evaluation, prompts = prompts[:held_out], prompts[held_out:]
    resume = RunFolder.exists(bench.workspace.runs, "policy", run, run.name)
    folder = RunFolder.create(
        bench.workspace.runs, "policy", run, name=run.name, resume=resume, data=fingerprint(pairs)
    )
    result = train_policy(
        run, prompts, folder, evaluation, resume=resume, gold=Gold(world()) if bench.is_sandbox else None
    )
    start = bench.snapshot("start_id")
    new = start
    if result.best.episodes > 0:
        new = register(
            bench.workspace,
            bench.store,
            bench.name(f"policy-{result.best.episodes}"),
            result.best.path,
            parent_id=start.id,
            run_id=folder.path.name,
        )
    return {
        "new_id": new.id,
        "policy_run": str(folder.path.relative_to(bench.workspace.path)),
        "policy_report": str(Path(result.report).relative_to(bench.workspace.path)),
        "policy_snapshots": [snapshot.model_dump(mode="json") for snapshot in result.snapshots],
        "policy_best_episodes": result.best.episodes,
        "alarms": list(result.alarms),
    }


def deploy(bench: Bench) -> dict[str, Any]:
    """The new snapshot is served beside the old one."""
    bench.store.set_snapshot_state(bench.round.facts["new_id"], "deployed")
    publish(bench.workspace, bench.store)
    return {}


def compare(bench: Bench) -> dict[str, Any]:
    """Both snapshots against each other at every turn, judged as before; for Elo (paper 2.4)."""
    start, new = bench.snapshot("start_id"), bench.snapshot("new_id")
    if start.id == new.id:
        bench.tell("The held-out PM prefers the snapshot that the round started from: nothing to compare.")
        return {"elo_study_ids": []}
    collection = bench.settings.collection
    total = collection.helpful_comparisons + collection.red_team_comparisons
    helpful = round(collection.compared * collection.helpful_comparisons / total)
    studies = [
        _study(
            bench,
            bench.name(f"elo-{mode.value}"),
            mode=mode,
            tranche=Tranche.ONLINE,
            snapshots=(SnapshotShare(snapshot_id=start.id), SnapshotShare(snapshot_id=new.id)),
            compare="distinct",
            continue_with="random",  # so that neither snapshot writes most of the conversation
            turns_per_conversation=collection.turns_per_conversation,
            target_comparisons=target,
        )
        for mode, target in ((Mode.HELPFUL, helpful), (Mode.RED_TEAM, collection.compared - helpful))
        if target
    ]
    _judge(bench, studies)
    return {"elo_study_ids": [study.id for study in studies]}


def evaluate(bench: Bench) -> dict[str, Any]:
    """Elo from the judgments; in the sandbox also against what is known."""
    from prefloop.loop.evaluation import elo_table, sandbox_numbers

    facts: dict[str, Any] = {"elo": elo_table(bench)}
    if bench.is_sandbox:
        facts |= sandbox_numbers(bench)
    return facts


def report(bench: Bench) -> dict[str, Any]:
    """The page that tells the round."""
    from prefloop.loop.report import write_round_report

    path = write_round_report(bench)
    return {"report": str(path.relative_to(bench.workspace.path))}


def _study(bench: Bench, name: str, **fields: Any) -> Study:
    """The study of that name; made if this is the first try."""
    known = next((study for study in bench.store.studies() if study.name == name), None)
    if known is None:
        known = Study(name=name, **fields)
        bench.store.add_study(known)
    return known


def _judge(bench: Bench, studies: list[Study]) -> None:
    """Lets people judge until every study has its target; then closes it.

    Errors:
        StateError: it is for invited people, and they are not done.
    """
    missing = _missing(bench.store, studies)
    if missing and not bench.is_sandbox:
        names = ", ".join(f"{study.name} ({missing[study.id]} to go)" for study in studies if study.id in missing)
        raise StateError(f"People have not judged enough yet: {names}; serve the page, then: prefloop round resume")
    if missing:
        for study in studies:  # simulated workers of an interrupted try do not come back
            bench.store.void_open(study.id, "abandoned: the simulated worker is gone")
        with served(bench.workspace) as url, tqdm(total=sum(missing.values()), desc="judgments", unit="") as bar:
            while missing:  # again where more second opinions were due than were planned for
                asyncio.run(_simulate(bench, url, [s for s in studies if s.id in missing], missing, bar))
                missing = _missing(bench.store, studies)
    for study in studies:
        bench.store.set_study_state(study.id, "closed")


async def _simulate(bench: Bench, url: str, studies: list[Study], missing: dict[str, int], bar: Any) -> None:
    """All studies at once, each with its own simulated workers."""
    traits = population(bench.settings).traits()
    async with asyncio.TaskGroup() as group:
        for study in studies:
            tokens = tuple(
                bench.store.add_invitation(
                    study.id, "worker", f"simulated-{study.name}-{i + 1:02d}", 1, is_simulated=True
                )
                for i in range(len(traits))
            )
            extra = round(missing[study.id] * study.overlap)
            todo = Work(missing[study.id] + extra, on_judgment=bar.update)
            bar.total += extra
            assignment = Assignment(url, study.id, study.mode, tokens)
            group.create_task(work(assignment, world(), traits, todo, bench.settings.seed + bench.round.number))


def _missing(store: Store, studies: list[Study]) -> dict[str, int]:
    """Judged comparisons that are still to come, by id of the study; studies that have their target are left out."""
    judged = {study.id: store.progress(study.id).comparisons.get(ComparisonState.JUDGED, 0) for study in studies}
    return {study.id: to_go for study in studies if (to_go := (study.target_comparisons or 0) - judged[study.id]) > 0}
