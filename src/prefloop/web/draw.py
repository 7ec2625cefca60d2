"""Which snapshots answer a turn, on which side, with which settings, seeds and pacing. Knows nothing of the store."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from prefloop.errors import StateError
from prefloop.schema import Pacing, Response, SamplingSettings, Snapshot, Study


def draw_pair(study: Study, snapshots: Mapping[str, Snapshot], chance: random.Random) -> tuple[Snapshot, Snapshot]:
    """The snapshots of side A and side B, by the study's weights.

    'any' draws each side alone, so that both may show the same snapshot. 'distinct' draws two different ones, and
    then their order by a fair coin (without it the heavier one would stand on side A more often).

    Errors:
        StateError: fewer snapshots than `compare` needs.
    """
    shares = [share for share in study.snapshots if snapshots[share.snapshot_id].state != "retired"]
    needed = 2 if study.compare == "distinct" else 1
    if len(shares) < needed:
        raise StateError(
            f"Study {study.name!r} has {len(shares)} snapshots that can answer and needs {needed}; add one."
        )
    weights = [share.weight for share in shares]
    first = chance.choices(range(len(shares)), weights)[0]
    if study.compare == "any":
        second = chance.choices(range(len(shares)), weights)[0]
    else:
        second = chance.choices(range(len(shares)), [0.0 if i == first else w for i, w in enumerate(weights)])[0]
        if chance.random() < 0.5:
            first, second = second, first
    return snapshots[shares[first].snapshot_id], snapshots[shares[second].snapshot_id]


def pending_response(study: Study, snapshot: Snapshot, chance: random.Random) -> Response:
    """A response yet to be written. A study that sets sampling overrides the snapshot's own."""
    sampling = snapshot.sampling if study.sampling == SamplingSettings() else study.sampling
    return Response(snapshot_id=snapshot.id, sampling=sampling, seed=chance.getrandbits(31))


def pacing_of(wanted: Pacing, drawn: Iterable[Snapshot]) -> Pacing:
    """The study's pacing; a best-of-k answer comes whole, so with one on either side both are revealed at the end
    (paper B.5)."""
    return "reveal_at_end" if any(snapshot.best_of_k > 1 for snapshot in drawn) else wanted
