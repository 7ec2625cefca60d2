"""A small study with two workers, and short ways to put comparisons and judgments into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefloop.schema import (
    Comparison,
    Conversation,
    Judgment,
    Mode,
    Response,
    SamplingSettings,
    Side,
    Snapshot,
    SnapshotShare,
    Study,
    Tranche,
    TreeMessage,
    Worker,
    now,
)
from prefloop.store import Store


class Scene:
    """One study, one snapshot, the worker Ada whose conversations they are and the worker Ben who judges too."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.snapshot = store.add_snapshot(Snapshot(name="base", hash="00", path="snapshots/base"))
        self.study = store.add_study(
            Study(
                name="pilot",
                mode=Mode.HELPFUL,
                tranche=Tranche.BASE,
                snapshots=(SnapshotShare(snapshot_id=self.snapshot.id, weight=0.5),),
                overlap=1.0,
            )
        )
        self.ada = store.add_worker(Worker(pseudonym="ada"))
        self.ben = store.add_worker(Worker(pseudonym="ben"))

    def conversation(self, text: str = "How do I boil an egg?") -> TreeMessage:
        """A new conversation's first user turn."""
        conversation = self.store.add_conversation(
            Conversation(mode=Mode.HELPFUL, study_id=self.study.id, worker_id=self.ada.id)
        )
        return self.store.add_message(TreeMessage(conversation_id=conversation.id, role="user", text=text))

    def comparison(self, context: TreeMessage | None = None, turn: int = 1, **changes: Any) -> Comparison:
        """A new comparison whose responses are pending."""
        context = context or self.conversation()
        sampling = SamplingSettings(temperature=0.7, stop=("END",))
        return self.store.add_comparison(
            Comparison(
                conversation_id=context.conversation_id,
                context_message_id=context.id,
                turn=turn,
                response_a=Response(snapshot_id=self.snapshot.id, sampling=sampling, seed=2**53 + 1),
                response_b=Response(snapshot_id=self.snapshot.id, sampling=sampling, seed=2),
                mode=Mode.HELPFUL,
                tranche=Tranche.BASE,
                study_id=self.study.id,
                worker_id=self.ada.id,
                interface_version="7",
                instructions_version="1",
                **changes,
            )
        )

    def done(self, context: TreeMessage | None = None, turn: int = 1) -> Comparison:
        """A new comparison whose responses are done."""
        comparison = self.comparison(context, turn)
        for side, text in ((comparison.response_a, "Eight minutes."), (comparison.response_b, "No idea.")):
            self.store.start_response(side.id)
            self.store.finish_response(side.id, text, 3, "stop", now(), now())
        return self.store.comparison(comparison.id)

    def judgment(
        self, comparison: Comparison, grade: int = 2, worker: Worker | None = None, revises: str | None = None
    ) -> Judgment:
        """A judgment that is not in the store yet."""
        side: Side = "a" if grade <= 4 else "b"
        return Judgment(
            comparison_id=comparison.id,
            worker_id=(worker or self.ada).id,
            question="more_helpful",
            grade=grade,
            clicked=side,
            preferred=side,
            reason_tags=("correct", "короче"),
            revises=revises,
            input_device="keyboard",
            shown_at=now(),
        )

    def judged(self, grade: int = 2) -> Comparison:
        """A new comparison that Ada has judged."""
        comparison = self.done()
        self.store.add_judgment(self.judgment(comparison, grade))
        return self.store.comparison(comparison.id)


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """A fresh store on SQLite alone, where a test is about files and not about the engine."""
    with Store.open(sqlite_url) as opened:
        yield opened


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store)
