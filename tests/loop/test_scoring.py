"""A preference model's scores become rows of the store, once, and the quality report draws them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from prefloop.errors import ModelError
from prefloop.loop.round import create_workspace
from prefloop.loop.scoring import score_comparisons
from prefloop.loop.snapshots import add
from prefloop.models.preference import PreferenceModel
from prefloop.quality import quality_report
from prefloop.sandbox.tiny import PMP_MODEL, tiny_model
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


def _record(worker: Worker, number: int, texts: tuple[str, str]) -> ComparisonRecord:
    conversation = Conversation(mode=Mode.HELPFUL, worker_id=worker.id, created_at=BEGIN)
    path = TreeMessage(conversation_id=conversation.id, role="user", text=f"How do I cook {number} eggs?")
    a, b = (Response(text=text, state=ResponseState.DONE, done_at=BEGIN) for text in texts)
    comparison = Comparison(
        conversation_id=conversation.id,
        context_message_id=path.id,
        turn=1,
        response_a=a,
        response_b=b,
        mode=Mode.HELPFUL,
        tranche=Tranche.BASE,
        worker_id=worker.id,
        state=ComparisonState.JUDGED,
    )
    judgment = Judgment(
        comparison_id=comparison.id,
        worker_id=worker.id,
        question="more_helpful",
        grade=1 + 7 * (number % 2),
        clicked="ab"[number % 2],  # type: ignore[arg-type]
        preferred="ab"[number % 2],  # type: ignore[arg-type]
        decided_at=BEGIN,
    )
    return ComparisonRecord(
        conversation=ConversationRecord(conversation=conversation),
        path=(path,),
        comparison=comparison,
        judgments=(judgment,),
    )


def test_replies_are_scored_once_and_drawn(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    worker = Worker(pseudonym="ada")
    texts = [(f"Boil them for {number} minutes.", "No idea.") for number in range(24)]
    records = [_record(worker, number, pair) for number, pair in enumerate([*texts, ("Same.", "Same.")])]
    with workspace.store() as store:
        store.import_records(lambda: iter([worker, *records]), "test")
        judge = add(workspace, store, "judge", str(tiny_model(PMP_MODEL)), kind="preference_model")
        assert quality_report(store).items.scores == ()
        assert score_comparisons(workspace, store, "judge") == 48  # equal replies are left out
        assert score_comparisons(workspace, store, "judge") == 0
        kept = store.scores(judge.id)
        alone = PreferenceModel.load(tiny_model(PMP_MODEL)).score(
            [[Message(role="user", text="How do I cook 3 eggs?"), Message(role="assistant", text=texts[3][0])]]
        )
        assert kept[records[3].comparison.response_a.id] == pytest.approx(alone[0], abs=1e-4)
        (scores,) = quality_report(store).items.scores
        assert scores.name == "judge"
        assert scores.tranches[0].quantiles.n == 48
        assert scores.agreement.interval is not None
        with pytest.raises(ModelError, match="gives no scores"):
            score_comparisons(workspace, store, base.name)
