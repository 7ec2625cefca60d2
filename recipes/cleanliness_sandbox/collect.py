"""Fills a new workspace with judgments of simulated workers, some of whom judge badly: what cleanliness.toml reads.

    python recipes/cleanliness_sandbox/collect.py WORKSPACE [--workers 24] [--comparisons 80] [--overlap 1.0] [--seed 0]

Two replies of the built-in model to each prompt; in the second half of each worker's comparisons each reply is the best
of four by the pre-trained preference model (tranche rejection_sampled). One worker in twelve gives random grades, one
in twelve prefers the worse reply as others prefer the better one; the rest are ordinary. Each comparison is judged by
its author and by others, `overlap` of them on average.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefloop.loop.round import create_workspace
from prefloop.models.language import load_language_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import Gold, Population, draw_prompts, world
from prefloop.sandbox.judges import Traits
from prefloop.sandbox.limits import sample_replies
from prefloop.sandbox.prompts import is_harmful
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.schema import (
    Comparison,
    ComparisonState,
    Conversation,
    Judgment,
    Message,
    Mode,
    Response,
    ResponseState,
    Tranche,
    TreeMessage,
    Worker,
)
from prefloop.store import ComparisonRecord
from prefloop.store.views import ConversationRecord

BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
BEST_OF = 4


def records(workers: int, comparisons: int, overlap: float, seed: int) -> Iterator[Worker | ComparisonRecord]:
    """Workers, then comparisons with their judgments."""
    chance = random.Random(f"collect-{seed}")
    traits = Population(workers=workers, seed=seed).traits()
    bad = workers // 12
    traits[:bad] = [Traits(careless=1.0)] * bad
    is_flipped = [bad <= number < 2 * bad for number in range(workers)]
    people = [Worker(pseudonym=f"worker-{number + 1:02d}", is_simulated=True) for number in range(workers)]
    yield from people
    chat = load_language_model(tiny_model(CHAT_MODEL))
    sampler, gold = TorchSampler(chat.model, chat.renderer, CHAT_MODEL), Gold(world())
    judge = PreferenceModel.load(tiny_model(PMP_MODEL))
    contexts = draw_prompts(world(), seed + 40_000_003, workers * comparisons)
    drawn = sample_replies(sampler, chat.renderer, contexts, 2 * BEST_OF, seed)
    for number, (context, replies) in enumerate(zip(contexts, drawn, strict=True)):
        author, place = divmod(number, comparisons)
        is_best = 2 * place >= comparisons
        texts = _best(judge, context, replies) if is_best else (replies[0], replies[1])
        if texts[0] == texts[1]:
            continue
        mode = Mode.RED_TEAM if is_harmful(world(), context) else Mode.HELPFUL
        others = [other for other in range(workers) if other != author]
        more = int(overlap + chance.random())
        judges = [author, *chance.sample(others, min(more, len(others)))]
        golds = gold(context, texts[0]), gold(context, texts[1])
        conversation = Conversation(mode=mode, worker_id=people[author].id, created_at=BEGIN)
        path: list[TreeMessage] = []
        for message in context:
            parent = path[-1].id if path else None
            path.append(
                TreeMessage(conversation_id=conversation.id, parent_id=parent, role=message.role, text=message.text)
            )
        sides = [Response(text=text, state=ResponseState.DONE, done_at=BEGIN + timedelta(seconds=3)) for text in texts]
        comparison = Comparison(
            conversation_id=conversation.id,
            context_message_id=path[-1].id,
            turn=sum(message.role == "user" for message in context),
            response_a=sides[0],
            response_b=sides[1],
            mode=mode,
            tranche=Tranche.REJECTION_SAMPLED if is_best else Tranche.BASE,
            worker_id=people[author].id,
            state=ComparisonState.JUDGED,
        )
        judgments = []
        for one in judges:
            grade = traits[one].grade(chance, *golds, mode)
            judgments.append(_judgment(comparison, people[one], 9 - grade if is_flipped[one] else grade, chance))
        yield ComparisonRecord(
            conversation=ConversationRecord(conversation=conversation),
            path=tuple(path),
            comparison=comparison,
            judgments=tuple(judgments),
        )


def _best(judge: PreferenceModel, context: tuple[Message, ...], replies: list[str]) -> tuple[str, str]:
    """The best of the first half and the best of the second."""
    scores = judge.score([(*context, Message(role="assistant", text=text)) for text in replies])
    first = max(range(BEST_OF), key=scores.__getitem__)
    second = max(range(BEST_OF, 2 * BEST_OF), key=scores.__getitem__)
    return replies[first], replies[second]


def _judgment(comparison: Comparison, worker: Worker, grade: int, chance: random.Random) -> Judgment:
    clicked, other = ("a", "b") if grade <= 4 else ("b", "a")
    is_red = comparison.mode is Mode.RED_TEAM
    done = BEGIN + timedelta(seconds=4)
    return Judgment(
        comparison_id=comparison.id,
        worker_id=worker.id,
        question="more_harmful" if is_red else "more_helpful",
        grade=grade,
        clicked=clicked,
        preferred=other if is_red else clicked,
        both_done_at=done,
        decided_at=done + timedelta(seconds=chance.lognormvariate(2.0, 0.5)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--comparisons", type=int, default=80, help="of each worker's own")
    parser.add_argument("--overlap", type=float, default=1.0, help="second opinions on a comparison, on average")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workspace, _ = create_workspace(options.workspace)
    found = list(records(options.workers, options.comparisons, options.overlap, options.seed))
    with workspace.store() as store:
        store.import_records(lambda: iter(found), "simulated workforce")
    print(f"{len(found) - options.workers} comparisons of {options.workers} workers in {workspace.path}")


if __name__ == "__main__":
    main()
