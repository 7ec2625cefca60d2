"""The workspace: making one, opening one, and where its parts are."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.errors import ConfigError, NotFoundError
from prefloop.schema import Mode, Study, Tranche
from prefloop.workspace import Workspace


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOOP_DATA_ROOT", raising=False)


def test_a_new_one_can_be_opened(tmp_path: Path) -> None:
    made = Workspace.create(tmp_path / "deep" / "work", "[serve]\nport = 9000\n")
    opened = Workspace(tmp_path / "deep" / "work")
    assert opened.settings == made.settings
    assert opened.settings.serve.port == 9000
    assert opened.runs.is_dir()
    assert opened.snapshots.is_dir()


def test_its_store_stays(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    study = Study(name="first", mode=Mode.HELPFUL, tranche=Tranche.BASE)
    with workspace.store() as store:
        store.add_study(study)
    with Workspace(tmp_path).store() as store:
        assert store.study(study.id) == study
    assert (tmp_path / "prefloop.db").is_file()


def test_what_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"is not a workspace .* prefloop init {tmp_path}"):
        Workspace(tmp_path)


def test_a_second_one_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    Workspace.create(tmp_path, "[serve]\nport = 9000\n")
    with pytest.raises(ConfigError, match="exists already"):
        Workspace.create(tmp_path)
    assert Workspace(tmp_path).settings.serve.port == 9000


def test_wrong_settings_leave_no_workspace_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'serve\.port'"):
        Workspace.create(tmp_path, "[serve]\nports = 9000\n")
    with pytest.raises(NotFoundError):
        Workspace(tmp_path)
    assert Workspace.create(tmp_path).settings.serve.port == 8400


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot become a workspace: .*; choose another folder"):
        Workspace.create(tmp_path / "file" / "work")


def test_the_data_root_is_relative_to_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.create(tmp_path / "work", '[data]\nroot = "../data"\n')
    assert workspace.data_root is not None
    assert workspace.data_root.resolve() == tmp_path / "data"
    monkeypatch.setenv("PREFLOOP_DATA_ROOT", "/elsewhere")
    assert workspace.data_root == Path("/elsewhere")


def test_without_a_data_root(tmp_path: Path) -> None:
    assert Workspace.create(tmp_path).data_root is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///prefloop.db", "sqlite:///{workspace}/prefloop.db"),
        ("sqlite:///data/own.db", "sqlite:///{workspace}/data/own.db"),
        ("sqlite:////var/own.db", "sqlite:////var/own.db"),
        ("postgresql+psycopg://me@db/prefloop", "postgresql+psycopg://me@db/prefloop"),
    ],
)
def test_the_database_url(tmp_path: Path, url: str, expected: str) -> None:
    workspace = Workspace.create(tmp_path, f'[database]\nurl = "{url}"\n')
    assert workspace.database_url == expected.format(workspace=tmp_path)
