"""Conversations, comparisons and responses: from the first turn to done or void."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import ComparisonState, Conversation, Mode, ResponseState, TreeMessage, now
from prefloop.store import Answer


def test_a_path_leads_from_the_root_to_the_message(scene: Any) -> None:
    root = scene.conversation("hello")
    answer = TreeMessage(conversation_id=root.conversation_id, parent_id=root.id, role="assistant", text="hi")
    other = TreeMessage(conversation_id=root.conversation_id, parent_id=root.id, role="assistant", text="yes?")
    for message in (answer, other):
        scene.store.add_message(message)
    assert scene.store.path(other.id) == [root, other]
    with pytest.raises(NotFoundError, match="no message 'none'"):
        scene.store.path("none")


def test_a_conversation_has_one_root_and_speakers_take_turns(scene: Any) -> None:
    root = scene.conversation()
    turn = TreeMessage(conversation_id=root.conversation_id, role="user", text="again")
    with pytest.raises(StateError, match="has a first turn already"):
        scene.store.add_message(turn)
    with pytest.raises(StateError, match="Two user turns"):
        scene.store.add_message(turn.model_copy(update={"parent_id": root.id}))
    elsewhere = scene.conversation()
    with pytest.raises(StateError, match="another conversation"):
        scene.store.add_message(turn.model_copy(update={"parent_id": elsewhere.id, "role": "assistant"}))


@pytest.mark.parametrize("text", ["a\0b", "\udfff"])
def test_a_turn_that_no_database_holds_is_refused(scene: Any, text: str) -> None:
    root = scene.conversation()
    turn = TreeMessage.model_construct(
        **{**root.model_dump(), "id": "1", "parent_id": root.id, "role": "assistant", "text": text}
    )
    with pytest.raises(DataError, match="The assistant turn holds"):
        scene.store.add_message(turn)


def test_the_open_conversation_is_the_newest_that_has_not_ended(scene: Any) -> None:
    store, worker, study = scene.store, scene.ada.id, scene.study.id
    assert store.open_conversation(worker, study) is None
    first, second = scene.conversation(), scene.conversation()
    assert store.open_conversation(worker, study).id == second.conversation_id
    store.end_conversation(second.conversation_id, "finished")
    assert store.open_conversation(worker, study).id == first.conversation_id
    assert store.open_conversation(scene.ben.id, study) is None
    store.end_conversation(second.conversation_id, "again")
    assert [e.payload for e in store.events() if e.verb == "conversation.ended"] == [{"reason": "finished"}]
    with pytest.raises(StateError, match="has ended"):
        scene.comparison(second)


def test_a_comparison_comes_back_as_it_was(scene: Any) -> None:
    comparison = scene.comparison()
    assert scene.store.comparison(comparison.id) == comparison
    assert scene.store.comparisons_of(comparison.conversation_id) == [comparison]


def test_a_turn_has_one_comparison_that_is_not_void(scene: Any) -> None:
    context = scene.conversation()
    first = scene.comparison(context)
    with pytest.raises(StateError, match=f"has comparison {first.id} already"):
        scene.comparison(context)
    scene.store.void_comparison(first.id, "asked again")
    second = scene.comparison(context)
    kept = scene.store.comparisons_of(context.conversation_id)
    assert [(c.id, c.state, c.void_reason) for c in kept] == [
        (first.id, ComparisonState.VOID, "asked again"),
        (second.id, ComparisonState.OPEN, None),
    ]


def test_a_comparison_answers_a_user_turn_of_its_conversation(scene: Any) -> None:
    context, elsewhere = scene.conversation(), scene.conversation()
    wrong = scene.comparison(context).model_copy(update={"id": "x", "turn": 2, "context_message_id": elsewhere.id})
    with pytest.raises(StateError, match="not a user turn of conversation"):
        scene.store.add_comparison(wrong)


def test_a_response_starts_and_finishes_once(scene: Any) -> None:
    store, response = scene.store, scene.comparison().response_a
    store.start_response(response.id)
    with pytest.raises(StateError, match="is streaming and cannot start"):
        store.start_response(response.id)
    first, done = now(), now()
    finished = store.finish_response(response.id, "four", 1, "length", first, done)
    expected = {"state": ResponseState.DONE, "text": "four", "tokens": 1, "finish_reason": "length"}
    assert finished == response.model_copy(update={**expected, "first_token_at": first, "done_at": done})
    with pytest.raises(StateError, match="is done and cannot finish"):
        store.finish_response(response.id, "five", 1, "stop", first, done)
    with pytest.raises(DataError, match="The response holds the character U\\+0000"):
        store.finish_response(response.id, "\0", 1, "stop", first, done)


def test_both_responses_finish_together_or_not_at_all(scene: Any) -> None:
    comparison = scene.comparison()
    answers = [
        Answer(response.id, "Hello.", 2, "stop", now(), now())
        for response in (comparison.response_a, comparison.response_b)
    ]
    with pytest.raises(StateError, match="is done and cannot finish"):
        scene.store.finish_responses([answers[0], answers[0]])
    assert scene.store.comparison(comparison.id).response_a.state is ResponseState.PENDING
    done = scene.store.finish_responses(answers)
    found = scene.store.comparison(comparison.id)
    assert done == [found.response_a, found.response_b]
    assert {(response.text, response.tokens, response.state) for response in done} == {("Hello.", 2, "done")}


def test_a_failed_response_voids_its_comparison(scene: Any) -> None:
    store, comparison = scene.store, scene.comparison()
    store.finish_response(comparison.response_b.id, "fine", 1, "stop", now(), now())
    store.fail_response(comparison.response_a.id, "the server went away")
    store.fail_response(comparison.response_b.id, "cancelled")  # too late to matter
    kept = store.comparison(comparison.id)
    assert (kept.state, kept.void_reason) == (ComparisonState.VOID, "a response failed: the server went away")
    assert (kept.response_a.state, kept.response_a.error) == (ResponseState.ERROR, "the server went away")
    assert (kept.response_b.state, kept.response_b.text) == (ResponseState.VOID, "fine")
    with pytest.raises(StateError, match="is void and cannot finish"):
        store.finish_response(comparison.response_b.id, "late", 1, "stop", now(), now())


def test_a_server_start_voids_what_was_left_unfinished(scene: Any) -> None:
    done, pending, judged = scene.done(), scene.comparison(), scene.judged()
    streaming = scene.comparison()
    scene.store.start_response(streaming.response_a.id)
    assert scene.store.void_unfinished("the server was restarted") == 2
    assert scene.store.void_unfinished("the server was restarted") == 0
    states = {c.id: scene.store.comparison(c.id).state for c in (done, pending, judged, streaming)}
    assert states == {done.id: "open", pending.id: "void", judged.id: "judged", streaming.id: "void"}


def test_a_judged_comparison_cannot_become_void(scene: Any) -> None:
    comparison = scene.judged()
    with pytest.raises(StateError, match="revise the judgment"):
        scene.store.void_comparison(comparison.id, "second thoughts")
    with pytest.raises(StateError, match="cannot fail any more"):
        scene.store.fail_response(comparison.response_a.id, "late")


def test_what_does_not_exist_is_named(scene: Any) -> None:
    for call in (scene.store.comparison, scene.store.conversation, scene.store.study, scene.store.worker):
        with pytest.raises(NotFoundError, match="'none'; it may belong to another workspace"):
            call("none")
    with pytest.raises(NotFoundError, match="no response 'none'"):
        scene.store.fail_response("none", "x")
    with pytest.raises(NotFoundError, match="no worker 'none'"):
        scene.store.add_conversation(Conversation(mode=Mode.HELPFUL, worker_id="none"))
