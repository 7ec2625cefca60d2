"""Backup and restore on both engines, while the database is in use; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import ConfigError, DataError
from prefloop.store import Store
from prefloop.store.backups import backup, restore


def test_a_backup_of_a_database_in_use_comes_back_whole(
    scene: Any, store_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    judged = [scene.judged(grade) for grade in (1, 8, 3)]
    file = tmp_path / "copy.backup"
    assert backup(store_url, file) == file.stat().st_size > 0  # the scene's store is open meanwhile
    later = scene.judged()
    if store_url.startswith("sqlite"):
        target = f"sqlite:///{tmp_path / 'restored.db'}"
    else:
        cluster = request.getfixturevalue("postgres_cluster")
        cluster.execute("DROP DATABASE IF EXISTS restored")
        cluster.execute("CREATE DATABASE restored")
        target = cluster.url("restored")
    restore(file, target)
    with Store.open(target) as other:
        kept = [record.comparison.id for record in other.records()]
        assert kept == [comparison.id for comparison in judged]
        assert later.id not in kept
        assert [record.judgments for record in other.records()] == [
            tuple(scene.store.judgments(comparison.id)) for comparison in judged
        ]
        assert [event.id for event in other.events(limit=10_000)] == [
            event.id for event in scene.store.events(limit=10_000)
        ][: len(other.events(limit=10_000))]
        other.add_worker(scene.ada.model_copy(update={"id": "new"}))  # it can be written to
    with pytest.raises(ConfigError, match="already"):
        restore(file, target)
    with pytest.raises(ConfigError, match="exists already"):
        backup(store_url, file)
    assert [name.name for name in tmp_path.iterdir() if "unfinished" in name.name] == []


def test_what_is_no_backup_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'new.db'}"
    with pytest.raises(ConfigError, match="does not exist"):
        restore(tmp_path / "none", target)
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"no database")
    with pytest.raises(DataError, match="no backup of a sqlite database"):
        restore(rubbish, target)
    cut = tmp_path / "cut"
    backup(sqlite_url, tmp_path / "whole")
    cut.write_bytes((tmp_path / "whole").read_bytes()[:9000])
    with pytest.raises(DataError, match="another backup"):
        restore(cut, target)
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(ConfigError, match="folder"):
        backup(sqlite_url, tmp_path / "no" / "such" / "file")
