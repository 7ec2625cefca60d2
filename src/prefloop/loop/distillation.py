"""`prefloop train distill`: finds texts, prompt and models, distils, registers and looks how the student answers."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any

from prefloop.errors import DataError
from prefloop.evals import evaluate_distillation
from prefloop.evals.distill import behind_prompt
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import conversations_of, split, stored_pairs
from prefloop.loop.example_prompt import example_prompt
from prefloop.loop.policy_evaluation import EvaluationPrompts, prompts_of_pairs, sandbox_prompts
from prefloop.loop.runs import nothing_half_done, require_free_name
from prefloop.loop.snapshots import register
from prefloop.models.language import load_config, load_language_model, load_tokenizer
from prefloop.render import Renderer
from prefloop.runs import RunFolder, write_json
from prefloop.sandbox import dialogues, world
from prefloop.schema import HELD_OUT_SHARE, Message
from prefloop.store import Store
from prefloop.store.formats import read_ranked
from prefloop.train.distill import DistillRun, train_distillation
from prefloop.train.memory import one_sentence_where_memory_ends
from prefloop.workspace import Workspace

_log = logging.getLogger(__name__)

_PROMPTS = 200


def run_distillation(workspace: Workspace, run: DistillRun, *, resume: bool = False) -> dict[str, Any]:
    """Trains, registers the student, and sets its replies beside the teacher's with and without the prompt."""
    prompt = example_prompt(run.prompt)
    with workspace.store() as store:
        require_free_name(store, run.name, resume)
        run = _resolved(workspace, store, run)
        texts = _texts(store, run)
        asked, note = _asked(store, run, prompt)
        folder = RunFolder.create(workspace.runs, "distill", run, name=run.name, resume=resume, texts=len(texts))
        ways = (
            f"lower texts_per_step (now {run.texts_per_step})",
            "take smaller models or a machine with more memory",
        )
        with nothing_half_done(folder), one_sentence_where_memory_ends(ways, folder.checkpoints):
            trained = train_distillation(run, prompt, texts, folder, resume=resume)
        snapshot = register(workspace, store, run.name, trained.path, run_id=folder.path.name)
        behaviour = None
        if asked is not None:
            behaviour = evaluate_distillation(
                load_language_model(run.teacher),
                load_language_model(trained.path),
                prompt,
                asked.contexts,
                gold=asked.gold,
                seed=run.seed,
            )
    result = {
        "run": str(folder.path),
        "snapshot": snapshot.name,
        "texts": trained.texts,
        "dropped_long_texts": trained.dropped_long,
        "kl_a_token_before": None if trained.kl_before is None else trained.kl_before.model_dump(mode="json"),
        "kl_a_token_after": None if trained.kl_after is None else trained.kl_after.model_dump(mode="json"),
        "replies": None if behaviour is None else behaviour.model_dump(mode="json"),
        "replies_note": note,
        "targets": str(trained.targets),
        "report": str(trained.report),
    }
    write_json(folder.path / "result.json", result)
    return result


def resolved_distillation(workspace: Workspace, run: DistillRun) -> dict[str, Any]:
    """`prefloop train distill --dry-run`: the settings with the models found, and the texts counted. Writes nothing."""
    prompt = example_prompt(run.prompt)
    with workspace.store() as store:
        run = _resolved(workspace, store, run)
        texts = _texts(store, run)
    return {"settings": run.model_dump(mode="json"), "prompt_turns": len(prompt), "texts": len(texts)}


def _resolved(workspace: Workspace, store: Store, run: DistillRun) -> DistillRun:
    models = {
        "teacher": resolve_model(workspace, store, run.teacher),
        "student": None if run.student is None else resolve_model(workspace, store, run.student),
    }
    return run.model_copy(update=models)


def _texts(store: Store, run: DistillRun) -> list[Sequence[Message]]:
    """Conversations, and each ranked question with its best answer as a dialogue (paper A.1: half of each)."""
    texts: list[Sequence[Message]] = []
    if run.sandbox_dialogues:
        texts += dialogues(world(), run.seed, run.sandbox_dialogues)
    elif pairs := stored_pairs(store):
        texts += conversations_of(split(pairs, run.held_out_share).training)
    for file in run.ranked_files:
        for question in read_ranked(file):
            best = max(question.answers, key=lambda answer: answer.score)
            texts.append((Message(role="user", text=question.text), Message(role="assistant", text=best.text)))
    if not texts:
        raise DataError(
            "There are 0 texts to distil on: the workspace holds no conversations; import some (prefloop import), or "
            "set ranked_files or sandbox_dialogues."
        )
    random.Random(f"texts-{run.seed}").shuffle(texts)  # so that the held-out end is a mix too
    return texts


def _asked(store: Store, run: DistillRun, prompt: Sequence[Message]) -> tuple[EvaluationPrompts | None, str]:
    """Held-out prompts that fit behind the example prompt, and what is not looked at afterwards, and why.

    Found before the training, which may take long; a warning says it then already.
    """
    is_sandbox = run.sandbox_dialogues > 0
    teacher, student = run.teacher, run.student or run.teacher
    try:
        unseen = () if is_sandbox else split(stored_pairs(store), HELD_OUT_SHARE).held_out
        found = sandbox_prompts(store, _PROMPTS, run.seed) if is_sandbox else prompts_of_pairs(unseen, _PROMPTS)
        window = min(int(load_config(path).max_position_embeddings) for path in (teacher, student))
        kept = behind_prompt(Renderer(load_tokenizer(teacher)), prompt, found.contexts, window)
    except DataError as error:
        note = f"The replies of teacher and student cannot be set side by side: {error}"
        _log.warning("%s", note)
        return None, note
    note = ""
    if left_out := len(found.contexts) - len(kept):
        note = f"{left_out} of {len(found.contexts)} held-out prompts do not fit behind the example prompt."
    return found, note
