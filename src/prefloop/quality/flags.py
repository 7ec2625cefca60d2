"""Flags on single workers, each with a threshold and a known rate of false alarms. Knows columns, no store and no page.

Sides are drawn at random for each comparison, so a fair worker's clicks on A are coin tosses whatever the texts are:
that test is exact. Runs are held against the worker's own answers in random order. The other kinds compare a worker
with all others. Each kind is tested at `false_alarms` divided by the number of workers, so that in one report on
honest workers it falls on anybody with that chance at most, and it needs a difference that matters as well. A flag is
a reason to read some of the work; nothing is left out because of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from prefloop.config import QualitySettings
from prefloop.errors import DataError
from prefloop.quality import measures
from prefloop.quality.nouns import Flag, FlagKind, FlagRule
from prefloop.quality.rows import MODES, Flags, Floats, Ints, Judgments
from prefloop.quality.words import plural
from prefloop.stats import (
    Reliability,
    at_least_chances,
    coin_chances,
    excess_chances,
    logit_point,
    noise_of,
    run_chances,
    score_chances,
)


def flag_rules(limits: QualitySettings, workers: int) -> tuple[FlagRule, ...]:
    """What is flagged when, in words; `workers` are those who judged. Nothing where nobody did."""
    if workers == 0:
        return ()
    level = limits.false_alarms / workers
    points = f"{100 * limits.least_difference:g} points"
    below = f"chance below {level:.2g} ({limits.false_alarms:g} over {plural(workers, 'worker')})"
    rules: dict[FlagKind, str] = {
        "flipped": f"strength below 0 with {below}: against everybody else on the same comparisons",
        "noise": f"noise {points} above that of the mean worker, items' difficulty taken out, {below}",
        "side": f"share of clicks on A {points} from one half, {below} with a fair coin",
        "length": f"share for the longer (or shorter) reply {points} beyond one half and the others', {below}",
        "first": f"share for the reply complete first {points} beyond one half and the others', {below}, length apart",
        "pace": f"share read faster than {limits.fastest_characters_per_second:g} characters a second {points} above "
        f"{_FAST_ENOUGH:.0%} and the others', {below}",
        "straight": f"longest run of one side or one grade, {below} with the same answers in random order",
        "paste": f"share of turns of {LONG_TURN} characters or more that came faster than "
        f"{limits.fastest_typing:g} characters a second {points} above the others', {below}; pasting is no fault",
        "copies": f"share of openings that copy own earlier ones {points} above the others', {below}",
    }
    return tuple(FlagRule(kind=kind, rule=rule, false_alarms=limits.false_alarms) for kind, rule in rules.items())


LONG_TURN = 200
"""Characters of a user turn from which the time it took tells typing from pasting."""
_FAST_ENOUGH = 0.1
"""An honest worker may know at a glance in so many judgments."""


class Tally(NamedTuple):
    """So many of so many, (worker,) each, and the same of everybody else."""

    hits: Ints
    tries: Ints

    @classmethod
    def of(cls, values: Flags, workers: Ints, count: int) -> Tally:
        return cls(np.bincount(workers[values], minlength=count), np.bincount(workers, minlength=count))

    @property
    def share(self) -> Floats:
        return _ratio(self.hits, self.tries)

    @property
    def others(self) -> Floats:
        return _ratio(self.hits.sum() - self.hits, self.tries.sum() - self.tries)


class _Raised(NamedTuple):
    """One kind of flag over all workers."""

    kind: FlagKind
    is_raised: Flags
    chances: Floats
    sentence: Callable[[int], str]


def raise_flags(
    judgments: Judgments,
    copies: Tally,
    pastes: Tally,
    fit: Reliability | None,
    count: int,
    limits: QualitySettings,
) -> list[list[Flag]]:
    """The flags of each worker code 0 ... count - 1, in the order of the rules."""
    level = limits.false_alarms / max(len(np.unique(judgments.worker)), 1)
    least = limits.least_difference
    seen = judgments.where(judgments.is_seen)
    found = [
        *_noise(fit, count, level, least),
        _side(Tally.of(seen.clicked_a, seen.worker, count), level, least),
        _length(judgments, count, level, least),
        _first(seen, count, level, least),
        _pace(seen, count, level, limits),
        _straight(seen, count, level),
        _copies(copies, level, least),
        _paste(pastes, level, least),
    ]
    flags: list[list[Flag]] = [[] for _ in range(count)]
    for kind in found:
        for code in np.flatnonzero(kind.is_raised):
            chance = float(kind.chances[code])
            sentence = kind.sentence(int(code))
            flags[code].append(Flag(kind=kind.kind, sentence=sentence, chance=chance, threshold=level))
    return flags


def _noise(fit: Reliability | None, count: int, level: float, least: float) -> list[_Raised]:
    """Two kinds: noisier than the mean of the others, and against everybody else; the second implies the first."""
    if fit is None:
        return []
    codes = np.array(fit.workers, dtype=np.int64)
    noise, others = noise_of(fit.strengths), noise_of(fit.strengths - fit.leads)
    is_known = fit.judgments > 0
    z = np.divide(fit.leads, fit.lead_deviations, out=np.zeros_like(fit.leads), where=fit.lead_deviations > 1e-6)
    noisier = _spread_out(special.ndtr(z), codes, count)
    against = _spread_out(special.ndtr(fit.estimates / fit.errors), codes, count)
    matters = _spread_out(((noise - others >= least) & is_known).astype(float), codes, count, 0.0) > 0
    values, rest = _spread_out(noise, codes, count), _spread_out(others, codes, count)
    n = _spread_out(fit.judgments.astype(float), codes, count)
    is_against = matters & (against < level)

    def sentence(code: int) -> str:
        return (
            f"prefers the worse side of a typical item in {values[code]:.0%} (n {n[code]:.0f}), others {rest[code]:.0%}"
        )

    return [
        _Raised("flipped", is_against, against, sentence),
        _Raised("noise", matters & (noisier < level) & ~is_against, noisier, sentence),
    ]


def _side(tally: Tally, level: float, least: float) -> _Raised:
    chances = coin_chances(tally.hits, tally.tries)
    is_raised = (np.abs(tally.share - 0.5) >= least) & (chances < level)

    def sentence(code: int) -> str:
        hits, tries = tally.hits[code], tally.tries[code]
        side, most = ("A", hits) if 2 * hits > tries else ("B", tries - hits)
        return f"clicked {side} in {most} of {tries} judgments"

    return _Raised("side", is_raised, chances, sentence)


def _length(judgments: Judgments, count: int, level: float, least: float) -> _Raised:
    rows = judgments.where((judgments.length_a != judgments.length_b) & ~judgments.are_identical)
    pull = _log_ratio(rows)
    design = pull[:, None] * (rows.mode[:, None] == np.arange(len(MODES)))
    tally = Tally.of(rows.preferred_a == (rows.length_a > rows.length_b), rows.worker, count)
    is_raised, chances = _leaning(design, pull, rows.preferred_a, rows.worker, tally, level, least)

    def sentence(code: int) -> str:
        share = tally.share[code]
        which, share = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
        rest = tally.others[code] if which == "longer" else 1 - tally.others[code]
        return f"prefers the {which} reply in {share:.0%} of {tally.tries[code]} pairs, others in {rest:.0%}"

    return _Raised("length", is_raised, chances, sentence)


def _first(seen: Judgments, count: int, level: float, least: float) -> _Raised:
    rows = seen.where((seen.first_done != 0) & ~seen.are_identical)
    pull = rows.first_done.astype(np.float64)
    design = np.column_stack([_log_ratio(rows)[:, None] * (rows.mode[:, None] == np.arange(len(MODES))), pull])
    tally = Tally.of(rows.clicked_a == (rows.first_done > 0), rows.worker, count)
    is_raised, chances = _leaning(design, pull, rows.clicked_a, rows.worker, tally, level, least)

    def sentence(code: int) -> str:
        return (
            f"clicked the reply complete {'first' if tally.share[code] > 0.5 else 'last'} in "
            f"{max(tally.share[code], 1 - tally.share[code]):.0%} of {tally.tries[code]} judgments"
        )

    return _Raised("first", is_raised, chances, sentence)


def _leaning(
    design: Floats, pull: Floats, chosen: Flags, workers: Ints, tally: Tally, level: float, least: float
) -> tuple[Flags, Floats]:
    """Who leans with the pull more than a logit of everybody's choices says, and beyond half and the others."""
    count = len(tally.hits)
    try:
        design = design[:, design.any(axis=0)]
        expected = special.expit(design @ logit_point(design, chosen.astype(np.float64)))
    except DataError:  # nothing differs, or it explains every choice: no worker can be told from another
        return np.zeros(count, dtype=np.bool_), np.ones(count)
    z, chances = score_chances(pull, chosen.astype(np.float64), expected, workers, count)
    share, others = tally.share, tally.others
    towards = (z > 0) & (share >= 0.5 + least) & (share - others >= least)
    away = (z < 0) & (share <= 0.5 - least) & (others - share >= least)
    return (towards | away) & (chances < level), chances


def _pace(seen: Judgments, count: int, level: float, limits: QualitySettings) -> _Raised:
    timed = seen.where(np.isfinite(seen.reading_seconds))
    most = limits.fastest_characters_per_second
    tally = Tally.of(measures.is_too_fast(timed, most), timed.worker, count)
    usual = np.fmax(tally.others, _FAST_ENOUGH)
    chances = at_least_chances(tally.hits, tally.tries, usual)
    is_raised = (tally.share - usual >= limits.least_difference) & (chances < level)

    def sentence(code: int) -> str:
        hits, tries = tally.hits[code], tally.tries[code]
        return f"read faster than {most:g} characters a second in {hits} of {tries} judgments"

    return _Raised("pace", is_raised, chances, sentence)


def _straight(seen: Judgments, count: int, level: float) -> _Raised:
    order = np.lexsort((seen.decided_at, seen.worker))
    workers = seen.worker[order]
    on_side, side = run_chances(seen.clicked_a[order].astype(np.int64), workers, count)
    same_grade, grade = run_chances(seen.grade[order], workers, count)
    chances = np.minimum(2 * np.minimum(side, grade), 1.0)  # two looks at the same worker

    def sentence(code: int) -> str:
        run, what = (on_side[code], "side") if side[code] <= grade[code] else (same_grade[code], "grade")
        return f"gave the same {what} {run} times in a row"

    return _Raised("straight", chances < level, chances, sentence)


def _copies(tally: Tally, level: float, least: float) -> _Raised:
    chances = excess_chances(tally.hits, tally.tries)
    is_raised = (tally.share - tally.others >= least) & (chances < level)

    def sentence(code: int) -> str:
        return f"{tally.hits[code]} of {tally.tries[code]} openings repeat an earlier one of their own, or nearly so"

    return _Raised("copies", is_raised, chances, sentence)


def _paste(tally: Tally, level: float, least: float) -> _Raised:
    """For a human to look at: a document to summarise is pasted too."""
    chances = excess_chances(tally.hits, tally.tries)
    is_raised = (tally.share - tally.others >= least) & (chances < level)

    def sentence(code: int) -> str:
        hits, tries = tally.hits[code], tally.tries[code]
        return f"{hits} of {tries} long turns came faster than anybody types, so they may be pasted"

    return _Raised("paste", is_raised, chances, sentence)


def _log_ratio(rows: Judgments) -> Floats:
    return np.asarray(np.log(np.maximum(rows.length_a, 1) / np.maximum(rows.length_b, 1)), dtype=np.float64)


def _ratio(above: Ints, below: Ints) -> Floats:
    """NaN where there is nothing below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above / below, dtype=np.float64)


def _spread_out(values: Floats, codes: Ints, count: int, rest: float = 1.0) -> Floats:
    """Values of some workers at their codes, `rest` elsewhere."""
    spread = np.full(count, rest)
    spread[codes] = values
    return spread
