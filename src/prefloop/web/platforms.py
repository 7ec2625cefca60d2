"""Where people come from: platforms that send workers by a link, take them back with a code, and pay them.

A platform is four functions on text and knows nothing of the page or the store, so that another one is a small class.
Nothing here talks to the network: lists are what a platform's own pages export and take.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit

from prefloop.errors import DataError

SubmissionStatus = Literal[
    "reserved", "active", "submitted", "approved", "rejected", "returned", "timed_out", "screened"
]
MAX_ID_CHARS = 100


class Arrival(NamedTuple):
    """Who came, for which of the platform's studies, in which of its sessions (submissions)."""

    platform: str
    external_id: str
    external_study_id: str
    external_session_id: str


class Platform(Protocol):
    """What prefloop asks of a platform."""

    name: str
    return_host: str

    def parse(self, parameters: Mapping[str, str]) -> Arrival | None:
        """Who comes by a link with these parameters; None where they are not this platform's, DataError if damaged."""
        ...

    def complete(self, code: str) -> str:
        """The address that a worker with this completion code goes back to."""
        ...

    def status(self, exported: str) -> dict[str, SubmissionStatus]:
        """What the platform says of each session, from its export (CSV with a head). DataError: another table."""
        ...

    def bonus(self, sums: Iterable[tuple[str, int]]) -> str:
        """The list that the platform takes to pay bonuses, from people's ids there and hundredths of the currency."""
        ...


_PROLIFIC_STATUSES: dict[str, SubmissionStatus] = {
    "RESERVED": "reserved",
    "ACTIVE": "active",
    "AWAITING REVIEW": "submitted",
    "APPROVED": "approved",
    "REJECTED": "rejected",
    "RETURNED": "returned",
    "TIMED-OUT": "timed_out",
    "SCREENED OUT": "screened",
}


class Prolific:
    """The conventions of Prolific: parameters of the study's link, completion codes, statuses, bulk bonuses."""

    name = "prolific"
    return_host = "app.prolific.com"
    _PARAMETERS = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")

    def parse(self, parameters: Mapping[str, str]) -> Arrival | None:
        if "PROLIFIC_PID" not in parameters:
            return None
        ids = [parameters.get(name, "") for name in self._PARAMETERS]
        for name, id in zip(self._PARAMETERS, ids, strict=True):
            if len(id) > MAX_ID_CHARS or not (id.isascii() and id.isalnum()):
                raise DataError(
                    f"{name} is {id[:40]!r} and must be letters and digits; open the link on Prolific again."
                )
        return Arrival(self.name, *ids)

    def complete(self, code: str) -> str:
        return f"https://{self.return_host}/submissions/complete?{urlencode({'cc': code})}"

    def status(self, exported: str) -> dict[str, SubmissionStatus]:
        rows = csv.DictReader(io.StringIO(exported.lstrip("\ufeff")))
        missing = {"Submission id", "Status"} - set(rows.fieldnames or ())
        if missing:
            raise DataError(f"The export has no column {min(missing)!r}; export the study's demographic data.")
        found: dict[str, SubmissionStatus] = {}
        for line, row in enumerate(rows, start=2):
            status = _PROLIFIC_STATUSES.get((row["Status"] or "").strip().upper())
            if status is None:
                raise DataError(
                    f"Line {line} has the status {row['Status']!r}; known are {', '.join(_PROLIFIC_STATUSES)}."
                )
            found[row["Submission id"]] = status
        return found

    def bonus(self, sums: Iterable[tuple[str, int]]) -> str:
        return "".join(f"{id},{units // 100}.{units % 100:02d}\n" for id, units in sums if units > 0)


PLATFORMS: tuple[Platform, ...] = (Prolific(),)


def arrival_of(parameters: Mapping[str, str]) -> Arrival | None:
    """Who comes from which platform; None for everybody else."""
    return next((found for platform in PLATFORMS if (found := platform.parse(parameters)) is not None), None)


def platform_of(name: str) -> Platform | None:
    """The platform of a name."""
    return next((platform for platform in PLATFORMS if platform.name == name), None)


def is_allowed(address: str, hosts: Iterable[str]) -> bool:
    """True for an https address whose host stands on the list, to the letter: no sub-domain, no user, no other port."""
    try:
        parts = urlsplit(address)
        return parts.scheme == "https" and parts.netloc.lower() in {host.lower() for host in hosts}
    except ValueError:
        return False
