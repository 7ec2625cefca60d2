"""`prefloop account ...`: who may work on the researcher's side. Prints links, never asks for a password."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prefloop.cli.output import emit, json_option, workspace_option
from prefloop.errors import NotFoundError
from prefloop.workspace import Workspace

if TYPE_CHECKING:
    from prefloop.store import Account, AccountRole, Store

ROLES: tuple[AccountRole, ...] = ("owner", "researcher", "reviewer")


@click.group()
def account() -> None:
    """Accounts of researchers: links, roles, ends."""


@account.command("list")
@workspace_option
@json_option
def list_(workspace_path: Path, as_json: bool) -> None:
    """All accounts."""
    with Workspace(workspace_path).store() as store:
        rows = {one.name: one.model_dump(mode="json", exclude={"name"}) for one in store.accounts()}
        emit(rows, as_json)


@account.command()
@click.option("--role", type=click.Choice(ROLES), default="owner", show_default=True, help="Of a new account.")
@click.option("--name", help="Set a new password for this account instead.")
@click.option("--address", help="Where the page is reached. Default: the workspace's own host and port.")
@workspace_option
@json_option
def link(role: AccountRole, name: str | None, address: str | None, workspace_path: Path, as_json: bool) -> None:
    """Print a link, good once, that makes an account or sets a new password."""
    from prefloop.web import setup_link

    workspace = Workspace(workspace_path)
    serve = workspace.settings.serve
    with workspace.store() as store:
        known = None if name is None else _named(store, name).id
        emit({"link": setup_link(store, address or f"http://{serve.host}:{serve.port}", role, known)}, as_json)


@account.command()
@click.argument("name")
@click.argument("new", type=click.Choice(ROLES))
@workspace_option
@json_option
def role(name: str, new: AccountRole, workspace_path: Path, as_json: bool) -> None:
    """Give the account NAME another role."""
    with Workspace(workspace_path).store() as store:
        store.set_account_role(_named(store, name).id, new)
        emit({"account": name, "role": new}, as_json)


@account.command()
@click.argument("name")
@workspace_option
@json_option
def end(name: str, workspace_path: Path, as_json: bool) -> None:
    """Close the account NAME with its sessions and tokens."""
    with Workspace(workspace_path).store() as store:
        store.end_account(_named(store, name).id)
        emit({"account": name, "ended": True}, as_json)


def _named(store: Store, name: str) -> Account:
    for known in store.accounts():
        if known.name.casefold() == name.casefold() and known.ended_at is None:
            return known
    raise NotFoundError(f"There is no open account {name!r}; see: prefloop account list")


COMMANDS = (account,)
