"""One training run from its settings: finds data and models, trains, registers what came out. Knows no formulas."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefloop.errors import ConfigError, DataError, TrainingError, UserError
from prefloop.evals import evaluate_preference, write_preference_report
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import (
    conversations_of,
    evenly,
    half_of,
    keep_pairs,
    kept,
    mixed,
    prompts_of,
    some_of,
    some_stored,
    split,
)
from prefloop.loop.held_out import held_out
from prefloop.loop.learning_rates import with_language_rate
from prefloop.loop.prompt_sources import training_prompts
from prefloop.loop.snapshots import register
from prefloop.models.checkpoint import latest_checkpoint
from prefloop.models.devices import device_named
from prefloop.models.language import load_language_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.pair_file import picked
from prefloop.runs import RunFolder
from prefloop.sandbox import Gold, Population, assistants, contrast_pairs, dialogues, draw_prompts, world
from prefloop.sandbox.contrasts import PRE_TRAINING_WAYS
from prefloop.sandbox.limits import contrast_accuracy, known_pairs
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import HELD_OUT_SHARE, Interval, Message, PreferencePair
from prefloop.store import Store
from prefloop.store.formats import RankedQuestion, ranked_pairs, read_ranked
from prefloop.train import policy_estimate, preference_estimate
from prefloop.train.lm import LanguageRun, train_language_model
from prefloop.train.memory import one_sentence_where_memory_ends
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.processes import Processes
from prefloop.train.threads import own_threads_afterwards, take_threads
from prefloop.workspace import Workspace

_EVALUATION_PROMPTS = 256
_SANDBOX_HELD_OUT = 3000


def run_language_model(workspace: Workspace, run: LanguageRun, *, resume: bool = False) -> dict[str, Any]:
    """`prefloop train lm`: the texts are the workspace's preferred conversations, or the tiny world's."""
    with workspace.store() as store:
        require_free_name(store, run.name, resume)
        run, texts = _language_data(workspace, store, run)
        folder = RunFolder.create(workspace.runs, "lm", run, name=run.name, resume=resume, texts=len(texts))
        ways = (
            f"lower tokens_per_step (now {run.tokens_per_step})",
            "take a smaller model or a machine with more memory",
        )
        with nothing_half_done(folder), one_sentence_where_memory_ends(ways, folder.checkpoints):
            model = train_language_model(run, texts, folder, resume=resume)
        snapshot = register(workspace, store, run.name, model, run_id=folder.path.name)
    last = [row for row in folder.metrics() if "lm/held_out_loss" in row][-1:]
    return {
        "run": str(folder.path),
        "snapshot": snapshot.name,
        "held_out_loss": last[0]["lm/held_out_loss"] if last else None,
        "texts": len(texts),
    }


def resolved_language_run(workspace: Workspace, run: LanguageRun) -> dict[str, Any]:
    """`prefloop train lm --dry-run`: the settings with the start found, and the texts counted. Writes nothing."""
    with workspace.store() as store:
        run, texts = _language_data(workspace, store, run)
    return {"settings": run.model_dump(mode="json"), "texts": len(texts)}


def _language_data(workspace: Workspace, store: Store, run: LanguageRun) -> tuple[LanguageRun, list[Sequence[Message]]]:
    """The run with its start found, and its texts."""
    if run.sandbox_dialogues and run.sandbox_assistants:
        raise ConfigError("sandbox_dialogues and sandbox_assistants are both set; leave one of them.")
    texts: list[Sequence[Message]]
    if run.sandbox_dialogues or run.sandbox_assistants:
        texts = list(dialogues(world(), run.seed, run.sandbox_dialogues))
        texts += list(assistants(world(), run.seed, run.sandbox_assistants))
    else:
        pairs = some_stored(store, "comparisons to take texts from")
        texts = [list(conversation) for conversation in conversations_of(split(pairs, run.held_out_share).training)]
    if run.start is not None:
        run = run.model_copy(update={"start": resolve_model(workspace, store, run.start)})
    return run, texts


@own_threads_afterwards()
def run_preference(workspace: Workspace, run: PreferenceRun, *, resume: bool = False) -> dict[str, Any]:
    """`prefloop train preference`: trains on the workspace's judgments and evaluates on held-out conversations."""
    with workspace.store() as store:
        require_free_name(store, run.name, resume)
        run = run.model_copy(update={"start": resolve_model(workspace, store, run.start)})
        run = with_language_rate(workspace, store, run)
        processes = Processes.of_environment()  # under torchrun: one makes the folder, then the others find it
        if resume:  # judgments that it draws must be those that it began with
            take_threads(RunFolder.create(workspace.runs, "preference", run, name=run.name, resume=True), processes)
        data = preference_data(store, run, workspace.runs)
        if not processes.is_first:
            processes.wait()
        folder = RunFolder.create(
            workspace.runs,
            "preference",
            run,
            name=run.name,
            resume=resume or not processes.is_first,
            data=fingerprint(data.training),
        )
        if processes.is_first:
            processes.wait()
        with (
            nothing_half_done(folder) if processes.is_first else contextlib.nullcontext(),
            one_sentence_where_memory_ends(preference_estimate.ways_to_fit(run), folder.checkpoints),
        ):
            trained = train_preference(run, data.training, folder, data.held_out, resume=resume)
        if not processes.is_first:
            return {"run": str(folder.path), "process": processes.rank}
        keep_pairs(folder, data.training)
        snapshot = register(workspace, store, run.name, trained.path, kind="preference_model", run_id=folder.path.name)
        result: dict[str, Any] = {
            "run": str(folder.path),
            "snapshot": snapshot.name,
            "pairs": trained.pairs,
            "dropped_long_pairs": trained.dropped_long_pairs,
            "dropped_turns": trained.dropped_turns,
            "dropped_identical_pairs": trained.dropped_identical_pairs,
            "dropped_blank_pairs": trained.dropped_blank_pairs,
            "dropped_weightless_pairs": trained.dropped_weightless_pairs,
            "held_out_pairs": 0,
            "notes": _held_out_notes(run, data),
        }
        if data.held_out:
            evaluation = evaluate_preference(
                trained.model,
                data.held_out,
                choice_probabilities=data.probabilities,
                store=store,
                model_id=snapshot.id,
                data=f"held-out {run.held_out_share:g}",
            )
            report = folder.path / "report.html"
            write_preference_report(evaluation, report, run.name)
            shown = ("accuracy", "longer_reply", "expected_accuracy", "best_possible", "share_of_best")
            result |= {
                "held_out_pairs": evaluation.pairs,
                "held_out_dropped_long_pairs": evaluation.dropped_pairs,
                "held_out_dropped_turns": evaluation.dropped_turns,
                "report": str(report),
            } | {
                name: value.model_dump(mode="json")
                for name in shown
                if (value := getattr(evaluation, name)) is not None
            }
        if run.sandbox_contrasts or run.sandbox_judgments:
            result["tells_right_content"] = contrast_accuracy(trained.model, run.seed)
    return result


def estimate_preference_run(workspace: Workspace, run: PreferenceRun) -> dict[str, Any]:
    """`prefloop train preference --dry-run`: the settings, and what the run will take here. Writes nothing."""
    with workspace.store() as store:
        resolved = run.model_copy(update={"start": resolve_model(workspace, store, run.start)})
        resolved = with_language_rate(workspace, store, resolved)
        data = preference_data(store, resolved, workspace.runs)
    with one_sentence_where_memory_ends(preference_estimate.ways_to_fit(resolved)):
        estimate = preference_estimate.estimate_preference(resolved, data.training, data.held_out)
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, Interval) else value
        for name, value in estimate._asdict().items()
    }
    return {
        "settings": resolved.model_dump(mode="json"),
        "held_out_pairs": len(data.held_out),
        "notes": _held_out_notes(resolved, data),
        "estimate": plain,
    }


class PreferenceData(NamedTuple):
    """`probabilities`: of the held-out pairs' choices, where they are known."""

    training: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    probabilities: list[float] | None = None


def _held_out_notes(run: PreferenceRun, data: PreferenceData) -> list[str]:
    """A sentence where a share is to be held out and nothing falls into it; of few conversations that happens."""
    if data.held_out or not run.held_out_share:
        return []
    return [
        f"No comparison falls into held_out_share = {run.held_out_share:g}, so the model cannot be evaluated; raise "
        "it, or add conversations."
    ]


def source_of(run: PreferenceRun) -> str | None:
    """The setting that says where a run's pairs come from; None: they are the workspace's comparisons.

    Errors:
        ConfigError: there are several.
    """
    sources = [name for name in ("ranked_files", "sandbox_contrasts", "sandbox_judgments") if getattr(run, name)]
    if len(sources) > 1:
        raise ConfigError(f"{' and '.join(sources)} are set, and a run has one source of pairs; leave one of them.")
    return sources[0] if sources else None


def preference_data(store: Store, run: PreferenceRun, disk: Path | None = None) -> PreferenceData:
    """What a run trains on and is evaluated on: simulated judgments, ranked answers, contrasts, or the workspace's.

    Args:
        disk: a folder to keep them in, one at a time in memory; None keeps them in memory.
    """
    source_of(run)
    if run.sandbox_judgments:
        chat = load_language_model(tiny_model(CHAT_MODEL))
        sampler, traits = TorchSampler(chat.model, chat.renderer, CHAT_MODEL), Population(seed=run.seed).traits()
        contexts = draw_prompts(world(), run.seed, run.sandbox_judgments)
        judged = known_pairs(sampler, chat.renderer, world(), contexts, traits, run.seed)
        count = min(_SANDBOX_HELD_OUT, run.sandbox_judgments)
        fresh = draw_prompts(world(), run.seed + 1, count, exclude=contexts)
        known = known_pairs(sampler, chat.renderer, world(), fresh, traits, run.seed + 1)
        return PreferenceData(
            chosen_for(run, half_for(run, [item.pair for item in judged])),
            [item.pair for item in known],
            [item.probability for item in known],
        )
    if run.ranked_files:
        asked = _questions(run.ranked_files)
        ranked = ranked_pairs(asked, is_binary=run.ranked_binary, most=run.ranked_pairs_per_question, seed=run.seed)
        pairs: Sequence[PreferencePair] = kept(ranked, disk)
        if not pairs:
            raise DataError("No question of ranked_files has two answers of different scores; give other files.")
    elif run.sandbox_contrasts:
        pairs = kept(contrast_pairs(world(), run.seed, run.sandbox_contrasts, ways=PRE_TRAINING_WAYS), disk)
    else:
        pairs = some_stored(store, "comparisons to train on", run.mode, run.tranche, folder=disk)
    training, evaluation = split(pairs, run.held_out_share)
    if not training:
        raise DataError(
            f"{len(pairs)} comparisons leave none to train on at held_out_share = {run.held_out_share:g}; lower it."
        )
    return PreferenceData(chosen_for(run, half_for(run, training)), evaluation)


def _questions(files: Sequence[Path]) -> Iterator[RankedQuestion]:
    """Those of all files. Every site's dump is a Posts.xml that counts from 1: ids begin with the file's place."""
    for place, file in enumerate(files):
        for question in read_ranked(file):
            yield question._replace(id=f"{place}:{question.id}")


def half_for(run: PreferenceRun, pairs: Sequence[PreferencePair]) -> Sequence[PreferencePair]:
    """Of the pairs those in the run's half of the conversations; all where it has none."""
    if run.half is None:
        return pairs
    return picked(pairs, [place for place, pair in enumerate(pairs) if half_of(pair) == run.half])


def chosen_for(run: PreferenceRun, pairs: Sequence[PreferencePair]) -> Sequence[PreferencePair]:
    """Of the pairs that a run may train on, those that it does: its mix, and of that at most its `training_pairs`."""
    mix = mixed(pairs, run.red_team_share, run.mix_pairs, run.seed, tranche_shares=run.tranche_shares)
    return some_of(mix, run.training_pairs, run.seed)


class _PolicyData(NamedTuple):
    """A policy run with its models found; its training pairs, prompts and evaluation prompts."""

    run: PolicyRun
    training: Sequence[PreferencePair]
    prompts: list[tuple[Message, ...]]
    evaluation: list[tuple[Message, ...]]
    notes: tuple[str, ...]


def _policy_data(workspace: Workspace, store: Store, run: PolicyRun) -> _PolicyData:
    update = {
        name: resolve_model(workspace, store, getattr(run, name))
        for name in ("policy", "preference_model", "held_out_preference_model")
    }
    watching = {name: resolve_model(workspace, store, path) for name, path in run.watching_preference_models.items()}
    run = run.model_copy(update=update | {"watching_preference_models": watching})
    pairs = some_stored(store, "comparisons to take prompts from")
    training = split(pairs, HELD_OUT_SHARE).training
    judges = {
        "preference_model": run.preference_model,
        "held_out_preference_model": run.held_out_preference_model,
        **watching,
    }
    unseen = held_out(workspace, store, pairs, judges)
    evaluation = evenly(prompts_of(unseen.pairs), _EVALUATION_PROMPTS)
    if run.gold:
        Gold(world()).require_known(evaluation)
    prompts = training_prompts(training, run.prompts, run.seed)
    return _PolicyData(run, training, prompts, evaluation, unseen.notes)


def estimate_policy_run(workspace: Workspace, run: PolicyRun) -> dict[str, Any]:
    """`prefloop train policy --dry-run`: the settings, and what the run will take here. Leaves nothing behind."""
    with workspace.store() as store:
        data = _policy_data(workspace, store, run)
    with one_sentence_where_memory_ends(policy_estimate.ways_to_fit(data.run)):
        estimate = policy_estimate.estimate_policy(data.run, data.prompts, data.evaluation)
    found = {
        "settings": data.run.model_dump(mode="json"),
        "prompts": len(data.prompts),
        "notes": list(data.notes),
        "estimate": estimate._asdict(),
    }
    if run.sampler_url is not None:
        found["sampler"] = f"{run.sampler_url} answers, and drew the replies of the estimate from weights sent to it"
    return found


def run_policy(workspace: Workspace, run: PolicyRun, *, resume: bool = False) -> dict[str, Any]:
    """`prefloop train policy`: the prompts are the contexts of the workspace's comparisons, and generated ones."""
    with workspace.store() as store:
        require_free_name(store, run.name, resume)
        run, training, prompts, evaluation, notes = _policy_data(workspace, store, run)
        processes = Processes.of_environment()  # under torchrun: one makes the folder, then the others find it
        if not processes.is_first:
            processes.wait()
        folder = RunFolder.create(
            workspace.runs,
            "policy",
            run,
            name=run.name,
            resume=resume or not processes.is_first,
            data=fingerprint(training),
        )
        if processes.is_first:
            processes.wait()
        with (
            nothing_half_done(folder) if processes.is_first else contextlib.nullcontext(),
            one_sentence_where_memory_ends(policy_estimate.ways_to_fit(run), folder.checkpoints),
        ):
            gold = Gold(world()) if run.gold else None
            result = train_policy(run, prompts, folder, evaluation, resume=resume, gold=gold)
        if not processes.is_first:
            return {"run": str(folder.path), "process": processes.rank}
        snapshot = register(workspace, store, run.name, result.best.path, run_id=folder.path.name)
    return {
        "run": str(folder.path),
        "snapshot": snapshot.name,
        "episodes": result.best.episodes,
        "score_train": result.best.score_train.model_dump(mode="json"),
        "score_held_out": result.best.score_held_out.model_dump(mode="json"),
        "score_held_out_at_start": result.snapshots[0].score_held_out.model_dump(mode="json"),
        "score_gold": None if result.best.score_gold is None else result.best.score_gold.model_dump(mode="json"),
        "kl": result.best.kl.model_dump(mode="json"),
        "alarms": list(result.alarms),
        "notes": list(notes),
        "report": result.report,
    }


@contextlib.contextmanager
def nothing_half_done(folder: RunFolder) -> Iterator[None]:
    """A run that ends before its first step leaves no folder: the same command, mended or not, starts afresh."""
    try:
        yield
    except (UserError, TrainingError):
        if not folder.metrics() and latest_checkpoint(folder.checkpoints) is None:
            shutil.rmtree(folder.path)
        raise


def fingerprint(pairs: Iterable[PreferencePair]) -> dict[str, Any]:
    """What goes into a run's provenance about its data."""
    digest, count = hashlib.sha256(), 0
    for pair in pairs:
        digest.update(pair.model_dump_json().encode())
        count += 1
    return {"pairs": count, "sha256": digest.hexdigest()}


def load_preference_model(
    workspace: Workspace | None, store: Store | None, name: str, device: str = "auto"
) -> PreferenceModel:
    """A PM by folder or snapshot name, on a device (as `device_named` has it)."""
    place = device_named(device)  # a GPU that is not there is told before anything is loaded
    return PreferenceModel.load(resolve_model(workspace, store, Path(name))).to(place)


def require_free_name(store: Store, name: str, resume: bool) -> None:
    """Before the work rather than after it: two runs cannot leave a snapshot of the same name."""
    if not resume and any(snapshot.name == name for snapshot in store.snapshots()):
        raise ConfigError(
            f"A snapshot named {name!r} is there already; give the run another name (--set name=...), or go on with "
            "--resume."
        )
