"""What preference models' scores, rows of the store, say of tranches and judgments. Knows numbers, loads no model.

Figure 15 of the paper: from base to rejection-sampled to online data the scores move up and fill the upper tail. A PM
was trained on some of these comparisons, so its accuracy here is fair on held-out conversations alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefloop.config import QualitySettings
from prefloop.quality import measures
from prefloop.quality.item_nouns import Gap, Lengths, ScoredTranche, ScoreReport
from prefloop.quality.measured import Measured, measured
from prefloop.quality.rows import Flags, Floats, Ints, Rows, Scores
from prefloop.stats import clustered_mean, clustered_share

_BINS, _GAPS, _LEAST_SCORES = 40, 5, 20
_TAIL = 0.95


def score_reports(
    rows: Rows, slices: Mapping[str, Flags], names: Mapping[str, str], limits: QualitySettings, seed: int
) -> tuple[ScoreReport, ...]:
    """One report for each PM that scored at least twenty judged comparisons on both sides."""
    found = []
    for model, scores in rows.scores.items():
        is_scored = np.isfinite(scores.score_a) & np.isfinite(scores.score_b) & rows.comparisons.is_usable
        parts = {name: is_scored & part for name, part in slices.items() if (is_scored & part).sum() >= _LEAST_SCORES}
        if parts:
            found.append(_report(rows, model, names.get(model, model), scores, parts, limits, seed))
    return tuple(found)


def _report(
    rows: Rows,
    model: str,
    name: str,
    scores: Scores,
    parts: Mapping[str, Flags],
    limits: QualitySettings,
    seed: int,
) -> ScoreReport:
    comparisons, judgments = rows.comparisons, rows.judgments
    held_out = _held_out(rows, limits.held_out_share)
    values = {key: np.concatenate([scores.score_a[part], scores.score_b[part]]) for key, part in parts.items()}
    edges = np.histogram_bin_edges(np.concatenate([*values.values()]), bins=_BINS)
    tail_of, base = next(iter(values.items()))  # the first: base, where there is any
    tail_from = float(np.quantile(base, _TAIL))
    at = judgments.comparison
    gap = scores.score_a[at] - scores.score_b[at]
    is_scored = np.isfinite(gap) & (gap != 0) & ~judgments.are_identical
    agrees = (gap > 0) == judgments.preferred_a
    by_people = is_scored & judgments.by_someone
    why = "This PM has scored no judgment that names its worker."
    return ScoreReport(
        model_id=model,
        name=name,
        edges=tuple(edges.tolist()),
        tail_from=tail_from,
        tail_of=tail_of,
        tranches=tuple(
            _tranche(
                key,
                values[key],
                np.tile(comparisons.conversation[part], 2),
                edges,
                tail_from,
                *(
                    measures.share(agrees[kept], judgments.conversation[kept], seed, why_none)
                    for kept, why_none in (
                        (is_scored & part[at], "No judgment of this tranche has two different scores."),
                        (is_scored & part[at] & held_out[at], "None of its conversations is held out."),
                    )
                ),
                seed=seed,
            )
            for key, part in parts.items()
        ),
        agreement=measures.share(agrees[by_people], judgments.conversation[by_people], seed, why),
        gaps=_gaps(np.abs(gap[is_scored]), agrees[is_scored], judgments.conversation[is_scored], seed),
    )


def _tranche(
    name: str,
    values: Floats,
    clusters: Ints,
    edges: Floats,
    tail_from: float,
    accuracy: Measured,
    held_out: Measured,
    *,
    seed: int,
) -> ScoredTranche:
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
    return ScoredTranche(
        name=name,
        mean=measured(lambda: clustered_mean(values, clusters, seed=seed)),
        quantiles=Lengths(n=len(values), **dict(zip(("p5", "p25", "median", "p75", "p95"), quantiles, strict=True))),
        bins=tuple((np.histogram(values, edges)[0] / len(values)).tolist()),
        tail=measures.share(values > tail_from, clusters, seed, "There are no scores."),
        accuracy=accuracy,
        held_out=held_out,
    )


def _gaps(gap: Floats, agrees: Flags, clusters: Ints, seed: int) -> tuple[Gap, ...]:
    """Equally many judgments in each."""
    if len(gap) < _GAPS * _LEAST_SCORES:
        return ()
    cuts = np.quantile(gap, np.linspace(0, 1, _GAPS + 1))
    place = np.clip(np.searchsorted(cuts, gap, side="right") - 1, 0, _GAPS - 1)
    return tuple(
        Gap(
            low=float(cuts[number]),
            high=float(cuts[number + 1]),
            agreement=clustered_share(agrees[place == number], clusters[place == number], seed=seed),
        )
        for number in range(_GAPS)
        if (place == number).any()
    )


def _held_out(rows: Rows, share: float) -> Flags:
    """(comparison,) whether runs hold its conversation out."""
    openings, conversation = rows.openings, rows.comparisons.conversation
    place = np.zeros(int(conversation.max(initial=0)) + 1)
    place[openings.conversation] = openings.place
    return np.asarray(place[conversation] >= 1 - share, dtype=np.bool_)
