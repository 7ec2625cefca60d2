"""A store to fill."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # tests have no packages; the workforce is shared by name


@pytest.fixture
def one_store(sqlite_url: str) -> Iterator[Store]:
    """An empty store on SQLite; the statistics do not depend on the engine."""
    with Store.open(sqlite_url) as opened:
        yield opened
