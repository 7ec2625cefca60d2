"""`prefloop account`: links, roles and ends on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_bad_input import one_sentence, prefloop

from prefloop.workspace import Workspace


def result(*arguments: str | Path) -> dict[str, Any]:
    done = prefloop(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_link_makes_an_account_that_is_listed_changed_and_closed(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w", "serve.port = 8401\n")
    at = ("--workspace", workspace.path)
    link = result("account", "link", *at)["link"]
    address, _, token = link.rpartition("/setup/")
    assert address == "http://127.0.0.1:8401"
    with workspace.store() as store:
        store.use_account_link(token, "Ada", "hash")
        store.use_account_link(store.add_account_link("researcher", 60), "Ben", "hash")
    assert {name: one["role"] for name, one in result("account", "list", *at).items()} == {
        "Ada": "owner",
        "Ben": "researcher",
    }
    other = result("account", "link", "--name", "ben", "--address", "https://page.example/", *at)["link"]
    with workspace.store() as store:
        assert store.account_link(other.rpartition("/setup/")[2]).account_name == "Ben"
        assert other.startswith("https://page.example/setup/")
    assert result("account", "role", "Ben", "reviewer", *at) == {"account": "Ben", "role": "reviewer"}
    result("account", "end", "Ben", *at)
    one_sentence(prefloop("account", "end", "Ben", *at), "no open account 'Ben'", "prefloop account list")
    one_sentence(prefloop("account", "end", "Ada", *at), "last owner")
