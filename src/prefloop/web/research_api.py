"""The API of the researcher's side, with the same rights as the pages. Errors have the one JSON shape.

Signed in by the session's cookie or by `Authorization: Bearer TOKEN`. Knows nothing of HTML.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from prefloop.store import Account, AccountRole, ApiToken, Researcher
from prefloop.web.accounts import setup_link
from prefloop.web.problems import Problem
from prefloop.web.services import COOKIES, AsOwner, AsReviewer, Shared

DESCRIBED = [  # for OpenAPI alone; who asks is found out in services.py
    Depends(HTTPBearer(auto_error=False, description="a token made at /researcher/account")),
    Depends(APIKeyCookie(name=COOKIES["researcher"], auto_error=False)),
]
router = APIRouter(prefix="/api/research", tags=["researcher"], dependencies=DESCRIBED)


class Body(BaseModel):
    """A request; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class LinkBody(Body):
    role: AccountRole
    account_id: str | None = Field(None, description="sets a new password for this account")


class RoleBody(Body):
    role: AccountRole


class TokenBody(Body):
    label: str = Field(min_length=1, max_length=60)
    days: int = Field(90, ge=1, le=365)


@router.get("/me")
async def me(researcher: AsReviewer) -> Researcher:
    """Who is signed in, and as what."""
    return researcher


@router.get("/accounts")
async def accounts(owner: AsOwner, shared: Shared) -> list[Account]:
    """All accounts, ended ones too. Owners only."""
    return await shared.threads.run(shared.store.accounts)


@router.post("/accounts/links", status_code=201)
async def make_link(body: LinkBody, request: Request, owner: AsOwner, shared: Shared) -> dict[str, Any]:
    """A link, good once, that makes an account or sets a new password. Owners only; told this once."""
    hours = shared.page.setup_link_hours
    link = await shared.threads.run(setup_link, shared.store, str(request.base_url), body.role, body.account_id, hours)
    return {"link": link, "hours": hours}


@router.post("/accounts/{account_id}/role")
async def set_role(account_id: str, body: RoleBody, owner: AsOwner, shared: Shared) -> dict[str, Any]:
    """Gives an account another role. Owners only; the last owner stays one."""
    await shared.threads.run(shared.store.set_account_role, account_id, body.role)
    shared.threads.forget()
    return {"account_id": account_id, "role": body.role}


@router.delete("/accounts/{account_id}")
async def end_account(account_id: str, owner: AsOwner, shared: Shared) -> dict[str, Any]:
    """Closes an account with its sessions and tokens. Owners only; the last owner stays."""
    await shared.threads.run(shared.store.end_account, account_id)
    shared.threads.forget()
    return {"account_id": account_id}


@router.get("/tokens")
async def tokens(researcher: AsReviewer, shared: Shared) -> list[ApiToken]:
    """One's own tokens for scripts, without the tokens themselves."""
    return await shared.threads.run(shared.store.api_tokens, researcher.id)


@router.post("/tokens", status_code=201)
async def make_token(body: TokenBody, researcher: AsReviewer, shared: Shared) -> dict[str, Any]:
    """A token for a script, with the rights of one's own account; told this once."""
    if not researcher.has_account:
        raise Problem(409, "no_account", "You came by a one-time link and have no account; ask an owner for one.")
    token = await shared.threads.run(shared.store.add_api_token, researcher.id, body.label, body.days * 86400.0)
    return {"token": token, "days": body.days}


@router.delete("/tokens/{token_id}")
async def end_token(token_id: str, researcher: AsReviewer, shared: Shared) -> dict[str, Any]:
    """Takes one of one's own tokens back."""
    await shared.threads.run(shared.store.end_api_token, researcher.id, token_id)
    shared.threads.forget()
    return {"token_id": token_id}
