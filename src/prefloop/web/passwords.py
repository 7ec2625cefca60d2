"""Passwords and guesses at them: argon2id, and how often a guess may be made. Knows nothing of routes and rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from prefloop.errors import DataError
from prefloop.web.problems import Problem

MIN_PASSWORD_CHARS = 12
MAX_PASSWORD_CHARS = 200
WINDOW_SECONDS = 900.0
GUESSES_BY_NAME_AND_ADDRESS = 5
GUESSES_BY_ADDRESS = 30
GUESSES_BY_NAME = 50
_MAX_REMEMBERED = 20_000

_hasher = PasswordHasher()  # argon2id with the parameters of RFC 9106, low memory


def hash_password(password: str) -> str:
    """The argon2id hash of a new password, with its salt and parameters.

    Errors:
        DataError: too short or too long (length is the one rule: no characters are asked for).
    """
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise DataError(
            f"The password has {len(password)} characters; give one of {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS}."
        )
    return _hasher.hash(password.encode("utf-8", "surrogatepass"))


def is_password(password: str, hashed: str | None) -> bool:
    """True where the password has this hash. With None, nobody's, it takes as long and is False."""
    try:
        _hasher.verify(hashed or _NOBODYS, password[: MAX_PASSWORD_CHARS + 1].encode("utf-8", "surrogatepass"))
    except (VerificationError, InvalidHashError):
        return False
    return hashed is not None


def is_outdated(hashed: str) -> bool:
    """True where the hash was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(hashed)


_NOBODYS = _hasher.hash("a password that nobody has")


class Guesses:
    """Counts wrong passwords of the last quarter of an hour, by name, by address and by both, in memory.

    By both, so that a stranger who guesses from elsewhere does not lock the owner of the name out soon; by each alone,
    so that neither many names nor many addresses get around it. Forgotten when the server stops.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[tuple[str, ...], deque[float]] = {}

    def refuse_too_many(self, name: str, address: str) -> None:
        """Problem 429 while the limit is reached; says when the next guess is possible."""
        wait = 0.0
        for key, limit in _limits(name, address):
            times = self._recent(key)
            if len(times) >= limit:
                wait = max(wait, times[-limit] + WINDOW_SECONDS - self._clock())
        if wait > 0:
            raise Problem(
                429,
                "too_many_guesses",
                f"Too many wrong passwords. Wait {int(wait // 60) + 1} minutes, or ask an owner for a new link.",
                {"Retry-After": str(int(wait) + 1)},
            )

    def wrong(self, name: str, address: str) -> None:
        """Counts one wrong password."""
        if len(self._times) > _MAX_REMEMBERED:
            self._times = {key: times for key in list(self._times) if (times := self._recent(key))}
        for key, _ in _limits(name, address):
            self._times.setdefault(key, deque(maxlen=GUESSES_BY_NAME)).append(self._clock())

    def right(self, name: str, address: str) -> None:
        """Forgets the guesses of somebody who is in now."""
        self._times.pop(_limits(name, address)[0][0], None)

    def _recent(self, key: tuple[str, ...]) -> deque[float]:
        times = self._times.get(key, deque())
        while times and times[0] <= self._clock() - WINDOW_SECONDS:
            times.popleft()
        if not times:
            self._times.pop(key, None)
        return times


def _limits(name: str, address: str) -> tuple[tuple[tuple[str, ...], int], ...]:
    folded = name[:200].casefold()
    return (
        (("both", folded, address), GUESSES_BY_NAME_AND_ADDRESS),
        (("address", address), GUESSES_BY_ADDRESS),
        (("name", folded), GUESSES_BY_NAME),
    )
