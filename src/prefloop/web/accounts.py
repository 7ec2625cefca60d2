"""Ways in for researchers: signing in and out, one-time links, accounts, tokens for scripts. Pages only.

There is no default account and no default password. `setup_link` makes the first owner; an owner makes links for the
others; whoever loses a password gets a link for a new one. Knows nothing of studies.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from prefloop.errors import DataError, StateError
from prefloop.store import AccountRole, Researcher, Store
from prefloop.web.passwords import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS, hash_password, is_outdated, is_password
from prefloop.web.problems import Problem
from prefloop.web.services import COOKIES, AsOwner, AsReviewer, Services, Shared, sign_in
from prefloop.web.settings import PageSettings

router = APIRouter(include_in_schema=False)
Password = Annotated[str, Form(max_length=4 * MAX_PASSWORD_CHARS)]
Name = Annotated[str, Form(max_length=200)]


def researcher_link(store: Store, address: str) -> str:
    """A new one-time way in without an account, with the rights of a researcher until the session ends.

    Args:
        address: where the page is reached, "http://127.0.0.1:8400" say.
    """
    return f"{address.rstrip('/')}/join/{store.add_invitation(None, 'researcher', None, 1)}"


def setup_link(
    store: Store, address: str, role: AccountRole = "owner", account_id: str | None = None, hours: float | None = None
) -> str:
    """A new link, good once, that makes an account (or sets a new password for the account `account_id`).

    Args:
        address: where the page is reached.
        hours: for how long; the page's default where it is None.
    """
    seconds = 3600 * (hours or PageSettings().setup_link_hours)
    return f"{address.rstrip('/')}/setup/{store.add_account_link(role, seconds, account_id)}"


@router.get("/researcher/sign-in")
async def sign_in_page(request: Request, shared: Shared) -> Response:
    """Name and password."""
    return shared.templates.TemplateResponse(request, "sign_in.html", {"target": "/researcher", "name": ""})


@router.post("/researcher/sign-in")
async def sign_in_with_password(
    request: Request, shared: Shared, name: Name, password: Password, target: Annotated[str, Form()] = "/researcher"
) -> Response:
    """Signs in, or says that name and password do not go together (never which of them is wrong)."""
    address = request.client.host if request.client else ""
    shared.guesses.refuse_too_many(name, address)
    known = await shared.threads.run(shared.store.password_hash, name)
    if not await shared.passwords.run(is_password, password, known[1] if known else None) or known is None:
        shared.guesses.wrong(name, address)
        facts = {"target": target, "name": name, "problem": "This name and this password do not go together."}
        return shared.templates.TemplateResponse(request, "sign_in.html", facts, status_code=401)
    shared.guesses.right(name, address)
    person, hashed = known
    if is_outdated(hashed):
        renewed = await shared.passwords.run(hash_password, password)
        await shared.threads.run(shared.store.set_password_hash, person.id, renewed, ends_sessions=False)
    response = RedirectResponse(_own(target), 303)
    await sign_in(request, response, person.id, "researcher")
    return response


@router.post("/researcher/sign-out")
async def sign_out(
    request: Request, researcher: AsReviewer, shared: Shared, everywhere: Annotated[bool, Form()] = False
) -> Response:
    """Ends this browser's session, or all of this person's."""
    if everywhere:
        await shared.threads.run(shared.store.end_sessions, researcher.id)
    else:
        await shared.threads.run(shared.store.end_session, request.cookies.get(COOKIES["researcher"], ""))
    shared.threads.forget()
    response = RedirectResponse("/researcher/sign-in", 303)
    response.delete_cookie(COOKIES["researcher"])
    return response


@router.get("/setup/{token}")
async def setup_page(token: str, request: Request, shared: Shared) -> Response:
    """Where a link leads: choose a name and a password. Looking at it does not use the link up."""
    return await _setup_page(request, shared, token)


@router.post("/setup/{token}")
async def set_up(
    token: str, request: Request, shared: Shared, password: Password, again: Password, name: Name = ""
) -> Response:
    """Makes the account, or sets the new password, and signs in."""
    await shared.threads.run(shared.store.account_link, token)  # refused before a hash is made
    try:
        hashed = await _chosen(shared, password, again)
        person = await shared.threads.run(shared.store.use_account_link, token, name, hashed)
    except (DataError, StateError) as error:
        return await _setup_page(request, shared, token, name=name, problem=str(error))
    shared.threads.forget()
    response = RedirectResponse("/researcher", 303)
    await sign_in(request, response, person.id, "researcher")
    return response


@router.get("/researcher/account")
async def account_page(request: Request, researcher: AsReviewer, shared: Shared) -> Response:
    """One's own account: password, sessions, tokens for scripts; for owners all accounts."""
    return await _account_page(request, shared, researcher)


@router.post("/researcher/account/password")
async def change_password(
    request: Request, researcher: AsReviewer, shared: Shared, old: Password, password: Password, again: Password
) -> Response:
    """Sets a new password and signs out everywhere else."""
    _refuse_guest(researcher)
    address = request.client.host if request.client else ""
    shared.guesses.refuse_too_many(researcher.name, address)
    known = await shared.threads.run(shared.store.password_hash, researcher.name)
    if not await shared.passwords.run(is_password, old, known[1] if known else None):
        shared.guesses.wrong(researcher.name, address)
        return await _account_page(request, shared, researcher, problem="The present password is another one.")
    try:
        hashed = await _chosen(shared, password, again)
    except DataError as error:
        return await _account_page(request, shared, researcher, problem=str(error))
    await shared.threads.run(shared.store.set_password_hash, researcher.id, hashed)
    shared.threads.forget()
    response = await _account_page(request, shared, researcher, done="The password is changed.")
    await sign_in(request, response, researcher.id, "researcher")
    return response


@router.post("/researcher/account/tokens")
async def make_token(
    request: Request,
    researcher: AsReviewer,
    shared: Shared,
    label: Annotated[str, Form(min_length=1, max_length=60)],
    days: Annotated[int, Form(ge=1, le=365)] = 90,
) -> Response:
    """A token for a script; shown once."""
    _refuse_guest(researcher)
    token = await shared.threads.run(shared.store.add_api_token, researcher.id, label, days * 86400.0)
    return await _account_page(request, shared, researcher, token=token)


@router.post("/researcher/account/tokens/{token_id}/end")
async def end_token(token_id: str, researcher: AsReviewer, shared: Shared) -> Response:
    """Takes a token back."""
    await shared.threads.run(shared.store.end_api_token, researcher.id, token_id)
    shared.threads.forget()
    return RedirectResponse("/researcher/account", 303)


@router.post("/researcher/accounts/links")
async def make_link(
    request: Request,
    owner: AsOwner,
    shared: Shared,
    role: Annotated[AccountRole, Form()],
    account_id: Annotated[str, Form()] = "",
) -> Response:
    """A link that makes an account, or sets a new password; shown once."""
    link = await shared.threads.run(
        setup_link, shared.store, str(request.base_url), role, account_id or None, shared.page.setup_link_hours
    )
    return await _account_page(request, shared, owner, link=link)


@router.post("/researcher/accounts/{account_id}/role")
async def set_role(
    account_id: str, request: Request, owner: AsOwner, shared: Shared, role: Annotated[AccountRole, Form()]
) -> Response:
    """Gives an account another role."""
    try:
        await shared.threads.run(shared.store.set_account_role, account_id, role)
    except StateError as error:
        return await _account_page(request, shared, owner, problem=str(error))
    shared.threads.forget()
    return RedirectResponse("/researcher/account", 303)


@router.post("/researcher/accounts/{account_id}/end")
async def end_account(account_id: str, request: Request, owner: AsOwner, shared: Shared) -> Response:
    """Closes an account, with its sessions and tokens."""
    try:
        await shared.threads.run(shared.store.end_account, account_id)
    except StateError as error:
        return await _account_page(request, shared, owner, problem=str(error))
    shared.threads.forget()
    return RedirectResponse("/researcher/account", 303)


async def _chosen(shared: Services, password: str, again: str) -> str:
    if password != again:
        raise DataError("The two passwords differ; type the same one twice.")
    return await shared.passwords.run(hash_password, password)


async def _setup_page(request: Request, shared: Services, token: str, **more: Any) -> Response:
    link = await shared.threads.run(shared.store.account_link, token)
    facts = {"link": link, "token": token, "min_chars": MIN_PASSWORD_CHARS, **more}
    return shared.templates.TemplateResponse(
        request, "setup.html", facts, status_code=422 if "problem" in more else 200
    )


async def _account_page(request: Request, shared: Services, researcher: Researcher, **more: Any) -> Response:
    run, store = shared.threads.run, shared.store
    facts = {
        "me": researcher,
        "min_chars": MIN_PASSWORD_CHARS,
        "tokens": await run(store.api_tokens, researcher.id),
        "accounts": await run(store.accounts) if researcher.role == "owner" else [],
        **more,
    }
    status = 422 if "problem" in more else 200
    return shared.templates.TemplateResponse(request, "account.html", facts, status_code=status)


def _refuse_guest(researcher: Researcher) -> None:
    if not researcher.has_account:
        raise Problem(
            409,
            "no_account",
            "You came by a one-time link and have no account; ask an owner for one.",
        )


def _own(target: str) -> str:
    """The address on the researcher's side that was asked for; never another site's."""
    is_own = target == "/researcher" or target.startswith(("/researcher/", "/researcher?"))
    return target if is_own and "\\" not in target and "\n" not in target and "\r" not in target else "/researcher"
