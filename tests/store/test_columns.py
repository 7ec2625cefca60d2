"""Reading for statistics goes through a large table once: each batch begins where the one before ended."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from prefloop.store import Store


def test_a_batch_is_read_in_the_order_of_the_primary_key(sqlite_url: str) -> None:
    """No batch sorts, or looks through, what other batches hold; the database's own plan says so."""
    said: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        said.append((statement, parameters))

    with Store.open(sqlite_url) as store:
        event.listen(Engine, "before_cursor_execute", listen)
        try:
            assert list(store.batches()) == []
        finally:
            event.remove(Engine, "before_cursor_execute", listen)
        statement, parameters = next(one for one in said if "JOIN response" in one[0])
        with store._read() as connection:
            raw = connection.connection.cursor()
            plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            raw.close()
    assert any("comparison USING INDEX sqlite_autoindex_comparison_1 (id>?)" in step for step in plan), plan
    assert not any("ORDER BY" in step for step in plan), plan
