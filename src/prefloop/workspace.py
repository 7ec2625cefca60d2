"""The workspace: a folder with prefloop.toml, the database, runs/ and snapshots/. Knows nothing of models."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.config import WORKSPACE_FILE, WorkspaceSettings
from prefloop.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from prefloop.store import Store

DATA_ROOT_VARIABLE = "PREFLOOP_DATA_ROOT"
"""Overrides the setting data.root."""


class Workspace:
    """An existing workspace.

    Errors:
        NotFoundError: the folder holds no prefloop.toml.
        ConfigError: its settings are wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).resolve()
        if not (self.path / WORKSPACE_FILE).is_file():
            raise NotFoundError(
                f"{self.path} is not a workspace (it has no {WORKSPACE_FILE}); make one with: prefloop init {path}"
            )
        self.settings = WorkspaceSettings.load([self.path / WORKSPACE_FILE])

    @classmethod
    def create(cls, path: Path, settings: str = "") -> Workspace:
        """Makes a new workspace; `settings` is the text of its prefloop.toml.

        Errors:
            ConfigError: the folder already holds one, the path cannot be a folder, or the settings are wrong; no
                workspace is left behind.
        """
        file = Path(path) / WORKSPACE_FILE
        if file.exists():
            raise ConfigError(f"{file} exists already; choose another folder or work in this one.")
        try:
            for folder in (Path(path), Path(path) / "runs", Path(path) / "snapshots"):
                folder.mkdir(parents=True, exist_ok=True)
            file.write_text(settings, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot become a workspace: {error.strerror}; choose another folder.") from None
        try:
            return cls(path)
        except ConfigError:
            file.unlink()
            raise

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def data_root(self) -> Path | None:
        """Folder of data sets: the environment's, else the setting's."""
        override = os.environ.get(DATA_ROOT_VARIABLE)
        return Path(override) if override else self.settings.data.root

    @cached_property
    def database_url(self) -> str:
        """The SQLAlchemy URL, an SQLite path made absolute below the workspace."""
        url = self.settings.database.url
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.startswith(prefix + "/"):
            return f"{prefix}{self.path / url.removeprefix(prefix)}"
        return url

    def store(self) -> Store:
        """Opens the database (and migrates it)."""
        from prefloop.store import Store

        return Store.open(self.database_url)
