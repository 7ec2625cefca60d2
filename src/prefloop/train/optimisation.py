"""What the gauges of a policy run say: fits against sqrt(KL), where PMs part, where to stop. Reads a run folder.

Responsible for the facts (`optimisation.json`); `optimisation_report` draws them. Loads no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.runs import RunFolder
from prefloop.schema import Interval, Noun
from prefloop.stats import (
    LinearPart,
    RiseFit,
    clustered_mean,
    fit_rises,
    linear_fit,
    linear_part,
    parting,
    stop_place,
)
from prefloop.stats.intervals import Floats
from prefloop.stats.optimisation import NAT_COST, Form
from prefloop.train.gauges import GOLD, HELD_OUT, TRAIN, EvaluatedReply, evaluated_replies

Role = Literal["trained against", "held out", "known preference"]
FORMS: tuple[Form, ...] = ("d(a - b d)", "d(a - b log d)")
_LEAST_SNAPSHOTS = 4
_WATCHING = "score_watching_"  # how metrics of PMs that watch begin, before their names


class Place(Noun):
    """A snapshot's place along the run."""

    episodes: int
    root_kl: float = Field(description="square root of nats; an estimate below 0 counts as 0")


class PartedAt(Noun):
    """From where on a held-out score no longer follows the trained one."""

    episodes: int
    root_kl: float
    before: float = Field(description="rise of the held-out score per unit of the trained one up to there")
    after: float = Field(description="the same from there on")
    p_value: float = Field(description="of one straight line against a knee")


class ScorerTrack(Noun):
    """One scorer along the run."""

    name: str
    role: Role
    scores: tuple[Interval, ...] = Field(description="mean raw score by snapshot")
    rises: tuple[Interval, ...] = Field(description="above the start on the same prompts, by snapshot")
    deviation: float | None = Field(description="of the start's scores over prompts; the unit of the stop advice")
    start_agreement: float | None = Field(
        None, description="correlation with the trained score over the start's replies; what the advice weighs it by"
    )
    linear: LinearPart | None = Field(None, description="of the score over sqrt(KL); None with too few snapshots")
    forms: tuple[RiseFit, ...] = Field((), description="of Gao et al. 2022")
    parted: PartedAt | None = Field(None, description="from the score that is trained against; None: no parting found")


class StopAdvice(Noun):
    """Where to stop, from held-out scores alone: the known preference is never asked."""

    at: Place
    is_end: bool = Field(description="the last snapshot: nothing speaks against training on")
    is_start: bool = Field(description="no snapshot is better than the start")
    trusted: tuple[float, ...] = Field(description="the curve it was read from, by snapshot, in start deviations")
    evidence: tuple[str, ...]


class Optimisation(Noun):
    """The gauges of one run."""

    name: str
    prompts: int
    places: tuple[Place, ...]
    kl: tuple[Interval, ...]
    scorers: tuple[ScorerTrack, ...]
    samples_per_root_kl: Interval | None = Field(description="episodes that a unit of sqrt(KL) takes; None if unknown")
    advice: StopAdvice | None = Field(description="None with too few snapshots or no held-out scorer")
    notes: tuple[str, ...] = Field((), description="what could not be known, and why")

    def scorer(self, name: str) -> ScorerTrack | None:
        """The track of that name."""
        return next((track for track in self.scorers if track.name == name), None)


def read_optimisation(run: Path, name: str | None = None) -> Optimisation:
    """The gauges of a run folder.

    Errors:
        DataError: no policy run, or one without any snapshot.
    """
    replies = evaluated_replies(run)
    rows = [row for row in RunFolder(run).metrics() if "eval/kl" in row]
    if not rows:
        raise DataError(f"{run} holds no evaluated snapshot of a policy run; train one, or give another folder.")
    if replies:
        return optimisation(name or run.name, replies)
    return _from_metrics(name or run.name, rows)


def optimisation(name: str, replies: Mapping[int, Sequence[EvaluatedReply]]) -> Optimisation:
    """The gauges from the replies behind each snapshot, the start first.

    Errors:
        DataError: no snapshot.
    """
    if not replies:
        raise DataError("There are 0 snapshots to measure; evaluate at least the start.")
    episodes = sorted(replies)
    kl = tuple(clustered_mean([reply.kl for reply in replies[at]]) for at in episodes)
    names = [key for key in replies[episodes[0]][0].scores if all(key in replies[at][0].scores for at in episodes)]
    scored = {key: np.array([[reply.scores[key] for reply in replies[at]] for at in episodes]) for key in names}
    tracks = [
        ScorerTrack(
            name=key,
            role=_role(key),
            scores=tuple(clustered_mean(row) for row in values),  # (snapshot, prompt)
            rises=tuple(clustered_mean(row - values[0]) for row in values),
            deviation=float(values[0].std()) or None,
            start_agreement=_correlation(scored[TRAIN][0], values[0]) if TRAIN in scored else None,
        )
        for key, values in scored.items()
    ]
    return _concluded(name, len(replies[episodes[0]]), episodes, kl, tracks)


def _from_metrics(name: str, rows: Sequence[Mapping[str, Any]]) -> Optimisation:
    """Of a run that kept no replies: means and their intervals alone, so that rises have none of their own."""
    rows = sorted(
        ({key.removeprefix("eval/"): value for key, value in row.items()} for row in rows),
        key=lambda row: int(row["episodes"]),
    )
    keys = {"score_train": TRAIN, "score_held_out": HELD_OUT, "score_gold": GOLD}
    for key in rows[0]:
        if key.startswith(_WATCHING) and not key.endswith(("_low", "_high")):
            keys[key] = key.removeprefix(_WATCHING)

    def intervals(key: str) -> tuple[Interval, ...]:
        return tuple(Interval(value=r[key], low=r[f"{key}_low"], high=r[f"{key}_high"], n=0) for r in rows)

    tracks = []
    for key, scorer in keys.items():
        if all(key in row for row in rows):
            scores = intervals(key)
            rises = tuple(
                Interval(value=score.value - scores[0].value, low=-math.inf, high=math.inf, n=0) for score in scores
            )
            tracks.append(ScorerTrack(name=scorer, role=_role(scorer), scores=scores, rises=rises, deviation=None))
    found = _concluded(name, 0, [row["episodes"] for row in rows], intervals("kl"), tracks)
    return found.model_copy(
        update={"notes": (*found.notes, "The run kept no replies, so rises have no interval of their own.")}
    )


def _concluded(
    name: str, prompts: int, episodes: Sequence[int], kl: tuple[Interval, ...], tracks: Sequence[ScorerTrack]
) -> Optimisation:
    places = tuple(
        Place(episodes=at, root_kl=math.sqrt(max(value.value, 0.0))) for at, value in zip(episodes, kl, strict=True)
    )
    d = np.array([place.root_kl for place in places])
    trained = next((track for track in tracks if track.name == TRAIN), None)
    fitted = [_fitted(track, places, trained) for track in tracks]
    notes: list[str] = []
    samples = None
    try:
        samples = linear_fit(d, np.array(episodes, dtype=np.float64)).slope
    except DataError:
        notes.append("Samples per unit of sqrt(KL) are not known: that takes three snapshots at different distances.")
    if samples is not None and samples.low <= 0:
        notes.append("Samples per unit of sqrt(KL) are not known: the distance does not grow steadily with training.")
        samples = None
    held_out = [track for track in fitted if track.role == "held out"]
    advice = None
    if trained is None or not held_out:
        notes.append("There is no advice where to stop: it takes a held-out PM that scored every snapshot.")
    elif len(places) < _LEAST_SNAPSHOTS:
        notes.append(f"There is no advice where to stop: it takes {_LEAST_SNAPSHOTS} snapshots, not {len(places)}.")
    else:
        advice = _advice(places, kl, trained, held_out)
    return Optimisation(
        name=name,
        prompts=prompts,
        places=places,
        kl=kl,
        scorers=tuple(fitted),
        samples_per_root_kl=samples,
        advice=advice,
        notes=tuple(notes),
    )


def _correlation(one: Floats, other: Floats) -> float | None:
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _role(name: str) -> Role:
    return "trained against" if name == TRAIN else "known preference" if name == GOLD else "held out"


def _fitted(track: ScorerTrack, places: Sequence[Place], trained: ScorerTrack | None) -> ScorerTrack:
    """The track with what can be fitted to it; too few snapshots leave a fit out."""
    d = [place.root_kl for place in places]
    rises = [rise.value for rise in track.rises]
    update: dict[str, Any] = {}
    try:
        update["linear"] = linear_part(d, rises)
        update["forms"] = tuple(fit_rises(d, rises, form) for form in FORMS)
    except DataError:
        pass  # said once for the run, by the notes
    if trained is not None and track.name != TRAIN:
        try:
            found = parting([rise.value for rise in trained.rises], rises)
        except DataError:
            found = None
        if found is not None:
            update["parted"] = PartedAt(
                episodes=places[found.place].episodes,
                root_kl=places[found.place].root_kl,
                before=found.before,
                after=found.after,
                p_value=found.p_value,
            )
    return track.model_copy(update=update)


def _advice(
    places: Sequence[Place], kl: Sequence[Interval], trained: ScorerTrack, held_out: Sequence[ScorerTrack]
) -> StopAdvice:
    def in_deviations(track: ScorerTrack) -> Any:
        rises = np.array([rise.value for rise in track.rises])
        return rises / (track.deviation or np.ptp(rises) or 1.0)

    agreements = [track.start_agreement for track in held_out]
    weights = None if None in agreements else [max(value or 0.0, 0.0) for value in agreements]
    claim = in_deviations(trained)
    stop = stop_place(claim, [in_deviations(track) for track in held_out], np.array([k.value for k in kl]), weights)
    at, last, end = places[stop.place], places[-1], len(places) - 1
    evidence = [
        f"At {at.episodes:,} episodes ({at.root_kl:.2f} sqrt(nats) from the start) the held-out "
        f"{_plural(len(held_out))} {stop.consensus[stop.place]:+.2f} deviations above the start, the PM that is "
        f"trained against claims {claim[stop.place]:+.2f}."
    ]
    if stop.place < end:
        gained = stop.consensus[end] - stop.consensus[stop.place]
        nats = max(kl[end].value, 0.0) - max(kl[stop.place].value, 0.0)
        ahead = stop.gap[end] - stop.gap[stop.place]
        reasons = [f"gained {gained:+.2f} more by the end ({last.episodes:,} episodes, {last.root_kl:.2f} sqrt(nats))"]
        if nats > 0:
            reasons.append(f"for {nats:.1f} nats, of which each should earn {NAT_COST:g}")
        if ahead > 0:
            reasons.append(f"while the claim ran ahead of them by {ahead:.2f}, of which half is taken off")
        evidence.append(f"They {', '.join(reasons)}.")
    else:
        evidence.append("The end of the run is its best place: nothing here speaks against training on.")
    for track in held_out:
        if track.parted is not None:
            knee = track.parted
            evidence.append(
                f"{track.name} gained {knee.before:.2f} for each unit of the trained score up to {knee.episodes:,} "
                f"episodes and {knee.after:.2f} after (p = {knee.p_value:.2g})."
            )
    if len(held_out) == 1:
        evidence.append(
            "One held-out PM watched; more of them, of another half of the data or another size, make this surer "
            "(watching_preference_models)."
        )
    return StopAdvice(
        at=at,
        is_end=stop.place == len(places) - 1,
        is_start=stop.place == 0,
        trusted=tuple(float(value) for value in stop.trusted),
        evidence=tuple(evidence),
    )


def _plural(count: int) -> str:
    return "PM stands" if count == 1 else f"PMs ({count}) stand on average"
