"""kill -9 in the middle of judging: whatever was acknowledged is there afterwards, and nothing is half there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prefloop.schema import ComparisonState
from prefloop.store import Store

PROGRAM = Path(__file__).parent / "judging_process.py"
ACKNOWLEDGED_BEFORE_THE_KILL = 40


def test_a_killed_process_loses_nothing_that_was_acknowledged(store_url: str) -> None:
    process = subprocess.Popen([sys.executable, str(PROGRAM), store_url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(ACKNOWLEDGED_BEFORE_THE_KILL)]
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    assert process.wait() == -9
    process.stdout.close()
    acknowledged = dict(line.split() for line in lines if line.endswith("\n"))
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_KILL

    with Store.open(store_url) as store:
        judged = {row.comparison.id: row.judgment.id for row in store.judged()}
        assert acknowledged.items() <= judged.items()
        written = [event.object_id for event in store.events(limit=100_000) if event.verb == "judgment.added"]
        assert sorted(written) == sorted(judged.values())
        # The four threads were each at one comparison at most when the process died, and those can be voided.
        open_ones = list(store.records(state=ComparisonState.OPEN))
        assert len(open_ones) <= 4
        store.void_unfinished("the server was restarted")
        with_half = [record for record in store.records(state=ComparisonState.OPEN) if record.judgments]
        assert with_half == []
