"""Run as a program: judges in four threads as fast as it can, and prints the id of every acknowledged judgment."""

from __future__ import annotations

import sys
from threading import Lock, Thread

from prefloop.schema import Comparison, Conversation, Judgment, Mode, Response, Tranche, TreeMessage, Worker, now
from prefloop.store import Store


def judge_forever(store: Store, worker: Worker, printing: Lock) -> None:
    while True:
        conversation = store.add_conversation(Conversation(mode=Mode.HELPFUL, worker_id=worker.id))
        context = store.add_message(TreeMessage(conversation_id=conversation.id, role="user", text="hello"))
        comparison = Comparison(
            conversation_id=conversation.id,
            context_message_id=context.id,
            turn=1,
            response_a=Response(),
            response_b=Response(),
            mode=Mode.HELPFUL,
            tranche=Tranche.BASE,
            worker_id=worker.id,
        )
        store.add_comparison(comparison)
        for response in (comparison.response_a, comparison.response_b):
            store.finish_response(response.id, "hi", 1, "stop", now(), now())
        judgment = Judgment(
            comparison_id=comparison.id,
            worker_id=worker.id,
            question="more_helpful",
            grade=1,
            clicked="a",
            preferred="a",
        )
        store.add_judgment(judgment)
        with printing:
            print(comparison.id, judgment.id, flush=True)


if __name__ == "__main__":
    opened = Store.open(sys.argv[1])
    lock = Lock()
    for number in range(4):
        Thread(target=judge_forever, args=(opened, opened.add_worker(Worker(pseudonym=f"w{number}")), lock)).start()
