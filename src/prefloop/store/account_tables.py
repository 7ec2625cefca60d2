"""The tables of the researcher's side: accounts, links that set them up, tokens for scripts.

Columns and constraints only, on the metadata of tables.py; knows nothing of who reads or writes them. Secrets stand
here as hashes alone: a password as argon2id, a link or a token as SHA-256.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Named, Table, Text, TypedColumns

from prefloop.store.tables import UtcTime, metadata, one_of

ROLES = ("owner", "researcher", "reviewer")


class AccountColumns(TypedColumns):
    """A researcher who signs in with a name and a password; the person is a row of `worker`."""

    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"), primary_key=True)
    name: Named[str] = Column(Text)
    sign_in_name: Named[str] = Column(Text, unique=True)  # the name in lower case, as Python folds it
    role: Named[str] = Column(Text)
    password_hash: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    ended_at = Column(UtcTime, nullable=True)


account = Table("account", metadata, AccountColumns, one_of("role", *ROLES))


class AccountLinkColumns(TypedColumns):
    """A link, good once, that makes an account of a role, or (with a worker) sets a new password."""

    digest = Column(Text, primary_key=True)
    role: Named[str] = Column(Text)
    worker_id: Named[str | None] = Column(Text, ForeignKey("worker.id"))
    created_at = Column(UtcTime, nullable=False)
    expires_at = Column(UtcTime, nullable=False)
    used_at = Column(UtcTime, nullable=True)


account_link = Table("account_link", metadata, AccountLinkColumns, one_of("role", *ROLES))


class ApiTokenColumns(TypedColumns):
    """What a script signs in with; it may do what its account may do."""

    digest = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"), index=True)
    label: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    expires_at = Column(UtcTime, nullable=False)
    ended_at = Column(UtcTime, nullable=True)


api_token = Table("api_token", metadata, ApiTokenColumns)
