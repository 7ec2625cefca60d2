"""Who may work on the researcher's side, and as what. Knows no password: what it keeps of one is its argon2id hash.

Accounts begin with a link that is good once. A person is a row of `worker` with the role 'researcher'; whoever came by
an old-style one-time link has no account and the rights of a researcher until the session ends.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, select, update
from sqlalchemy.exc import IntegrityError

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import Noun, Worker, now
from prefloop.store import tables
from prefloop.store.account_tables import account, account_link, api_token
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.people import TOKEN_BYTES, digest_of, insert_worker

AccountRole = Literal["owner", "researcher", "reviewer"]
MAX_NAME_CHARS = 60


class Researcher(Noun):
    """Somebody on the researcher's side; without an account for whoever came by a one-time link."""

    id: str
    name: str
    role: AccountRole
    has_account: bool


class Account(Noun):
    """A researcher's account as others may see it; `hash` stays in the store's own calls."""

    id: str
    name: str
    role: AccountRole
    created_at: datetime
    ended_at: datetime | None


class AccountLink(Noun):
    """What a set-up link is for: a new account of a role, or a new password for `account_name`."""

    role: AccountRole
    account_name: str | None
    expires_at: datetime


class ApiToken(Noun):
    """A token for scripts, without the token: `id` is the beginning of its hash."""

    id: str
    label: str
    created_at: datetime
    expires_at: datetime


class Accounts(Database):
    """The part of the store that knows accounts, their links and tokens."""

    # ---- accounts ----

    def accounts(self) -> list[Account]:
        """All accounts, ended ones too, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(account).order_by(account.c.worker_id)).mappings()
            return [_account_from(row) for row in rows]

    def has_owner(self) -> bool:
        """True once somebody can administer the accounts."""
        with self._read() as connection:
            return _owners(connection) > 0

    def add_account_link(self, role: AccountRole, ttl_seconds: float, account_id: str | None = None) -> str:
        """The token of a link that makes an account, or sets a new password for `account_id`; told this once.

        An earlier unused link for the same password, or for another owner, is good no more: nothing that lies about
        in a log may open everything.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        created = now()

        def work(unit: Unit) -> str:
            kept_role = role if account_id is None else _one_account(unit.connection, account_id)["role"]
            if account_id is not None or role == "owner":
                same = (account_link.c.worker_id == account_id) if account_id else account_link.c.worker_id.is_(None)
                earlier = same & (account_link.c.role == kept_role) & account_link.c.used_at.is_(None)
                unit.connection.execute(update(account_link).where(earlier).values(used_at=created))
            unit.insert(
                account_link,
                {
                    "digest": digest_of(token),
                    "role": kept_role,
                    "worker_id": account_id,
                    "created_at": created,
                    "expires_at": created + timedelta(seconds=ttl_seconds),
                },
            )
            unit.log("researcher", "account.link", account_id or "new", role=kept_role)
            return token

        return self._write(work)

    def account_link(self, token: str) -> AccountLink:
        """What an unused link is for.

        Errors:
            NotFoundError: unknown, used or expired.
        """
        with self._read() as connection:
            row = _open_link(connection, token)
            name = _one_account(connection, row["worker_id"])["name"] if row["worker_id"] else None
        return AccountLink(role=row["role"], account_name=name, expires_at=row["expires_at"])

    def use_account_link(self, token: str, name: str, password_hash: str) -> Researcher:
        """Makes the account (or sets its new password, then `name` is not read), and uses the link up.

        A new password ends the account's sessions.

        Errors:
            NotFoundError: the link is unknown, used or expired.
            DataError: the name is empty or too long.
            StateError: the name is taken.
        """
        name = " ".join(name.split())

        def work(unit: Unit) -> Researcher:
            row = _open_link(unit.connection, token, lock=True)
            used = update(account_link).where(account_link.c.digest == row["digest"]).values(used_at=now())
            unit.connection.execute(used)
            if row["worker_id"] is not None:
                _set_password(unit, row["worker_id"], password_hash)
                return _researcher_from(_one_account(unit.connection, row["worker_id"]))
            if not 1 <= len(name) <= MAX_NAME_CHARS:
                raise DataError(f"The name has {len(name)} characters; give one of 1 to {MAX_NAME_CHARS}.")
            checked_text(name, "The name")
            if unit.connection.scalar(select(account.c.worker_id).where(_same_name(name))) is not None:
                raise StateError(f"The name {name!r} is taken; choose another one.")
            person = Worker(pseudonym=name, role="researcher")
            insert_worker(unit, person)
            unit.insert(
                account,
                {
                    "worker_id": person.id,
                    "name": name,
                    "sign_in_name": name.casefold(),
                    "role": row["role"],
                    "password_hash": password_hash,
                    "created_at": now(),
                },
            )
            unit.log(person.id, "account.added", person.id, role=row["role"])
            return Researcher(id=person.id, name=name, role=row["role"], has_account=True)

        try:
            return self._write(work)
        except StateError as error:
            if isinstance(error.__cause__, IntegrityError):  # two who chose one name at once
                raise StateError(f"The name {name!r} is taken; choose another one.") from None
            raise

    def password_hash(self, name: str) -> tuple[Researcher, str] | None:
        """Who has this name (upper and lower case are the same) and the hash of the password; None for nobody."""
        with self._read() as connection:
            row = connection.execute(_active().where(_same_name(name))).mappings().one_or_none()
        return None if row is None else (_researcher_from(row), row["password_hash"])

    def set_password_hash(self, account_id: str, password_hash: str, ends_sessions: bool = True) -> None:
        """Keeps another password's hash; ends the account's sessions, but not where it is the same password."""
        self._write(lambda unit: _set_password(unit, account_id, password_hash, ends_sessions))

    def set_account_role(self, account_id: str, role: AccountRole) -> None:
        """Gives an account another role. StateError for the last owner."""

        def work(unit: Unit) -> None:
            old = _one_account(unit.connection, account_id, lock=True)["role"]
            unit.connection.execute(update(account).where(account.c.worker_id == account_id).values(role=role))
            _refuse_without_owner(unit.connection, old)
            unit.log("researcher", "account.role", account_id, old=old, new=role)

        self._write(work)

    def end_account(self, account_id: str) -> None:
        """Closes an account for good, with its sessions and tokens. StateError for the last owner."""

        def work(unit: Unit) -> None:
            old = _one_account(unit.connection, account_id, lock=True)["role"]
            unit.connection.execute(update(account).where(account.c.worker_id == account_id).values(ended_at=now()))
            _refuse_without_owner(unit.connection, old)
            _end_all(unit, account_id, with_tokens=True)
            unit.log("researcher", "account.ended", account_id)

        self._write(work)

    # ---- who is asking ----

    def session_researcher(self, token: str) -> Researcher | None:
        """Who is signed in with a session's token; None for nobody, a worker, and an account that has ended."""
        session, worker = tables.session, tables.worker
        statement = (
            select(worker.c.id, worker.c.pseudonym, account.c.name, account.c.role, account.c.ended_at)
            .join(session, session.c.worker_id == worker.c.id)
            .outerjoin(account, account.c.worker_id == worker.c.id)
            .where(
                session.c.digest == digest_of(token),
                session.c.ended_at.is_(None),
                session.c.expires_at > now(),
                worker.c.role == "researcher",
            )
        )
        with self._read() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None or row.ended_at is not None:
            return None
        if row.role is None:
            return Researcher(id=row.id, name=row.pseudonym, role="researcher", has_account=False)
        return Researcher(id=row.id, name=row.name, role=row.role, has_account=True)

    def end_sessions(self, worker_id: str) -> None:
        """Signs somebody out everywhere."""

        def work(unit: Unit) -> None:
            _end_all(unit, worker_id)
            unit.log(worker_id, "session.ended", worker_id, everywhere=True)

        self._write(work)

    # ---- tokens for scripts ----

    def add_api_token(self, account_id: str, label: str, ttl_seconds: float) -> str:
        """A token that acts for an account for `ttl_seconds`; told this once."""
        token = f"prefloop_{secrets.token_urlsafe(TOKEN_BYTES)}"
        created = now()
        checked_text(label, "The label")

        def work(unit: Unit) -> str:
            _one_account(unit.connection, account_id)
            times = {"created_at": created, "expires_at": created + timedelta(seconds=ttl_seconds)}
            unit.insert(api_token, {"digest": digest_of(token), "worker_id": account_id, "label": label, **times})
            unit.log(account_id, "token.added", account_id, label=label, ttl_seconds=ttl_seconds)
            return token

        return self._write(work)

    def api_tokens(self, account_id: str) -> list[ApiToken]:
        """An account's tokens that are good now, oldest first."""
        statement = (
            select(api_token)
            .where(api_token.c.worker_id == account_id, api_token.c.ended_at.is_(None), api_token.c.expires_at > now())
            .order_by(api_token.c.created_at, api_token.c.digest)
        )
        with self._read() as connection:
            return [
                ApiToken(
                    id=row["digest"][:16],
                    label=row["label"],
                    created_at=row["created_at"],
                    expires_at=row["expires_at"],
                )
                for row in connection.execute(statement).mappings()
            ]

    def token_researcher(self, token: str) -> Researcher | None:
        """For whom a token acts; None for an unknown, expired or ended one, and for an account that has ended."""
        statement = (
            _active()
            .join(api_token, api_token.c.worker_id == account.c.worker_id)
            .where(
                api_token.c.digest == digest_of(token), api_token.c.ended_at.is_(None), api_token.c.expires_at > now()
            )
        )
        with self._read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else _researcher_from(row)

    def end_api_token(self, account_id: str, token_id: str) -> None:
        """Takes a token back; NotFoundError where the account has none of this id."""

        def work(unit: Unit) -> None:
            ended = unit.connection.scalar(
                update(api_token)
                .where(
                    api_token.c.worker_id == account_id,
                    func.substr(api_token.c.digest, 1, 16) == token_id,
                    api_token.c.ended_at.is_(None),
                )
                .values(ended_at=now())
                .returning(api_token.c.digest)
            )
            if ended is None:
                raise NotFoundError(f"There is no token {token_id!r}; reload the list.")
            unit.log(account_id, "token.ended", account_id, token=token_id)

        self._write(work)


def _active() -> Select[Any]:
    return select(account).where(account.c.ended_at.is_(None))


def _same_name(name: str) -> ColumnElement[bool]:
    return account.c.sign_in_name == " ".join(name.split()).casefold()


def _one_account(connection: Connection, account_id: str, lock: bool = False) -> RowMapping:
    statement = _active().where(account.c.worker_id == account_id)
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no account {account_id!r} that is open; reload the list.")
    return row


def _open_link(connection: Connection, token: str, lock: bool = False) -> RowMapping:
    statement = select(account_link).where(
        account_link.c.digest == digest_of(token), account_link.c.used_at.is_(None), account_link.c.expires_at > now()
    )
    row = connection.execute(statement.with_for_update() if lock else statement).mappings().one_or_none()
    if row is None:
        raise NotFoundError("This set-up link is not good any more; ask an owner (or the server's log) for a new one.")
    return row


def _owners(connection: Connection) -> int:
    owners = select(func.count()).where(account.c.role == "owner", account.c.ended_at.is_(None))
    return connection.scalar(owners.select_from(account)) or 0


def _refuse_without_owner(connection: Connection, old_role: str) -> None:
    """Asked after the change, inside of its transaction."""
    if old_role == "owner" and _owners(connection) == 0:
        raise StateError("This is the last owner, and somebody must administer the accounts; make another owner first.")


def _set_password(unit: Unit, account_id: str, password_hash: str, ends_sessions: bool = True) -> None:
    _one_account(unit.connection, account_id, lock=True)
    changed = update(account).where(account.c.worker_id == account_id).values(password_hash=password_hash)
    unit.connection.execute(changed)
    if ends_sessions:
        _end_all(unit, account_id)
        unit.log(account_id, "account.password", account_id)


def _end_all(unit: Unit, worker_id: str, with_tokens: bool = False) -> None:
    for table in (tables.session, api_token) if with_tokens else (tables.session,):
        open_ones = (table.c.worker_id == worker_id) & table.c.ended_at.is_(None)
        unit.connection.execute(update(table).where(open_ones).values(ended_at=now()))


def _account_from(row: RowMapping) -> Account:
    return Account(
        id=row["worker_id"],
        name=row["name"],
        role=row["role"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )


def _researcher_from(row: RowMapping) -> Researcher:
    return Researcher(id=row["worker_id"], name=row["name"], role=row["role"], has_account=True)
