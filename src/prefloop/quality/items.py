"""What was judged, tranche by tranche: how much, how long, how varied, how sure the labels. Knows columns, no store.

A tranche is told apart by mode too: helpful and red-team comparisons of one snapshot are different data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from prefloop.config import QualitySettings
from prefloop.errors import DataError
from prefloop.quality import measures
from prefloop.quality.item_nouns import ItemReport, Lengths, Topic, TrancheReport
from prefloop.quality.leaks import leaks
from prefloop.quality.measured import Measured, known, measured
from prefloop.quality.rows import MODES, NOBODY, TRANCHES, Comparisons, Flags, Floats, Ints, Rows
from prefloop.quality.scoring import score_reports
from prefloop.quality.text_facts import TextFacts
from prefloop.quality.texts import words_of
from prefloop.quality.topics import Clustering
from prefloop.schema import Interval
from prefloop.stats import Cycles, accuracy_ceiling, cycles, effective_kinds, rarefied_kinds, raw_agreement

_MOST_COMPARED, _LEAST_COMPARED = 1000, 10  # openings that diversity is taken of
_LEAST_QUANTILES = 20


class Slice(NamedTuple):
    """One tranche in one mode, and its rows."""

    name: str
    mode: int
    tranche: int

    def of(self, columns: Comparisons) -> Flags:
        """Rows of a comparison table."""
        is_here: Flags = (columns.mode == self.mode) & (columns.tranche == self.tranche)
        return is_here


def item_report(
    rows: Rows, facts: TextFacts, names: Mapping[str, str], limits: QualitySettings, seed: int
) -> ItemReport:
    """All of it; `names` are those of snapshots and preference models by id."""
    comparisons = rows.comparisons
    slices = slices_of(comparisons)
    clustering = facts.clustering
    usable = comparisons.where(comparisons.is_usable & (comparisons.opening != NOBODY))
    openings = {part.name: np.unique(usable.opening[part.of(usable)]) for part in slices}
    least = min((len(codes) for codes in openings.values()), default=0)
    size = min(least // 2, _MOST_COMPARED)
    size = size if size >= _LEAST_COMPARED else 0
    diversity = _diversity(rows, openings, clustering, size, seed)
    circles, why_none = None, ""
    try:
        circles = _circles(rows, seed)
    except DataError as error:
        why_none = str(error)
    return ItemReport(
        tranches=tuple(
            _tranche(rows, part, len(openings[part.name]), *diversity[part.name], seed=seed) for part in slices
        ),
        compared_openings=size,
        leaks=leaks(rows, openings, facts.near, limits.held_out_share, seed),
        topics=_topics(clustering, openings, rows.openings.texts),
        topics_unknown=clustering.unknown,
        texts=facts.turns,
        cycles=circles,
        cycles_unknown=why_none,
        scores=score_reports(rows, {part.name: part.of(comparisons) for part in slices}, names, limits, seed),
    )


def slices_of(comparisons: Comparisons) -> list[Slice]:
    """The tranches in which anything usable was judged, by mode."""
    kept = comparisons.is_usable
    present = {*zip(comparisons.mode[kept].tolist(), comparisons.tranche[kept].tolist(), strict=True)}
    return [
        Slice(f"{MODES[mode].value} {TRANCHES[tranche].value}".replace("_", " "), mode, tranche)
        for mode, tranche in sorted(present)
    ]


def _tranche(rows: Rows, part: Slice, openings: int, words: Measured, topics: Measured, *, seed: int) -> TrancheReport:
    comparisons = rows.comparisons
    kept = comparisons.where(part.of(comparisons) & comparisons.is_usable)
    judged = (rows.judgments.mode == part.mode) & (rows.judgments.tranche == part.tranche)
    judgments = rows.judgments.where(judged & ~rows.judgments.are_identical)
    shared = measures.shared_judgments(judgments)
    sides = shared.preferred_a.astype(np.float64)
    agreement = (
        measured(lambda: raw_agreement(shared.comparison, sides, shared.conversation, seed=seed))
        if len(shared)
        else Measured(unknown=measures.why_no_overlap(judgments))
    )
    if why_none := measures.why_one_sided(shared):
        agreement = Measured(unknown=why_none)
    ceiling = agreement if agreement.interval is None else Measured(interval=accuracy_ceiling(agreement.interval))
    turns, counts = np.unique(kept.turn, return_counts=True)
    return TrancheReport(
        name=part.name,
        mode=MODES[part.mode],
        tranche=TRANCHES[part.tranche],
        comparisons=len(kept),
        judgments=len(judgments),
        conversations=len(np.unique(kept.conversation)),
        openings=openings,
        turns={int(turn): int(count) for turn, count in zip(turns, counts, strict=True)},
        replies=lengths(np.concatenate([kept.length_a, kept.length_b])),
        prompts=lengths(kept.written_characters[kept.written_characters > 0]),
        longer_wins=measures.length(judgments, seed).longer_wins,
        agreement=agreement,
        label_noise=ceiling if ceiling.interval is None else Measured(interval=_less_than_one(ceiling.interval)),
        ceiling=ceiling,
        words=words,
        topics=topics,
    )


def _less_than_one(share: Interval) -> Interval:
    """1 - share. Labels that miss a common truth independently with e agree in (1-e)^2 + e^2, so e is 1 - ceiling."""
    return share.model_copy(update={"value": 1 - share.value, "low": 1 - share.high, "high": 1 - share.low})


def lengths(values: Ints | Floats) -> Lengths | None:
    """Quantiles; None of fewer than twenty values, of which none is the twentieth part."""
    if len(values) < _LEAST_QUANTILES:
        return None
    p5, p25, median, p75, p95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    return Lengths(n=len(values), p5=p5, p25=p25, median=median, p75=p75, p95=p95)


def _diversity(
    rows: Rows, openings: Mapping[str, Ints], clustering: Clustering, size: int, seed: int
) -> dict[str, tuple[Measured, Measured]]:
    """Different words and mixed topics of each tranche, all at one size."""
    if size == 0:
        few = Measured(
            unknown=f"A tranche has fewer than {2 * _LEAST_COMPARED} different openings; that is too few to compare."
        )
        return dict.fromkeys(openings, (few, few))
    texts = rows.openings.texts
    words = dict(zip(texts, words_of(texts.values()), strict=True))
    found = {}
    for name, codes in openings.items():
        kept = [int(code) for code in codes if int(code) in words]
        items = [words[code] for code in kept]
        topic = np.array([clustering.topic.get(code, -1) for code in kept], dtype=np.int64)
        found[name] = (
            measured(lambda items=items: rarefied_kinds(items, size, seed=seed)),  # type: ignore[misc]
            _mixed_topics(topic[topic >= 0], size, clustering.unknown, seed),
        )
    return found


def _mixed_topics(topic: Ints, size: int, why_none: str, seed: int) -> Measured:
    if why_none or len(topic) < 2 * _LEAST_COMPARED:
        return Measured(unknown=why_none or f"Only {len(topic)} of its openings were clustered.")
    draw, size = np.random.default_rng(seed), min(size, len(topic) // 2)
    found = [
        effective_kinds(np.bincount(topic[draw.permutation(len(topic))[:size]]).astype(np.float64)) for _ in range(100)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    mean = float(np.mean(found))
    return known(Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=size))


def _topics(clustering: Clustering, openings: Mapping[str, Ints], texts: Mapping[int, str]) -> tuple[Topic, ...]:
    found = []
    for number, (words, examples, share) in enumerate(clustering.topics):
        of_tranche = {}
        for name, codes in openings.items():
            topic = [clustering.topic[code] for code in codes.tolist() if code in clustering.topic]
            of_tranche[name] = topic.count(number) / len(topic) if topic else 0.0
        found.append(
            Topic(words=words, share=share, by_tranche=of_tranche, examples=tuple(texts[code] for code in examples))
        )
    return tuple(found)


def _circles(rows: Rows, seed: int) -> Cycles:
    judgments, comparisons = rows.judgments, rows.comparisons
    usable = judgments.where(~judgments.are_identical & ~judgments.is_weakest)
    first, second = comparisons.snapshot_a[usable.comparison], comparisons.snapshot_b[usable.comparison]
    kept = (first != NOBODY) & (second != NOBODY) & (first != second)
    return cycles(first[kept], second[kept], usable.preferred_a[kept].astype(np.float64), seed=seed)
