"""The numbers of a report from columns: each measured with its interval, or the reason why not. Knows no store.

Intervals are clustered by conversation: they say how far the number would move with other conversations of the same
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefloop.errors import DataError
from prefloop.quality.measured import LEAST_CLUSTERS, Measured, geometric, known, measured
from prefloop.quality.nouns import (
    Agreement,
    Concentration,
    Counts,
    Duplicates,
    LengthEffect,
    ResearcherAgreement,
    VoidReason,
)
from prefloop.quality.rows import MODES, TRANCHES, Flags, Floats, Ints, Judgments, Rows, grade_counts
from prefloop.quality.texts import MOST_TEXTS_FOR_NEAR_COPIES
from prefloop.stats import (
    NearDuplicate,
    clustered_mean,
    clustered_share,
    cohen_kappa,
    gini,
    krippendorff_alpha,
    label_codes,
    length_bias,
    raw_agreement,
    top_share,
)

_SHOWN = 8


def share(values: Flags, clusters: Ints, seed: int, why_none: str) -> Measured:
    """A share with its interval, or `why_none` where there is nothing to count."""
    if len(values) == 0:
        return Measured(unknown=why_none)
    return measured(lambda: clustered_share(values.astype(np.float64), clusters, seed=seed))


def counts(rows: Rows, seed: int) -> Counts:
    """How much there is of everything."""
    judgments, comparisons = rows.judgments, rows.comparisons
    by_tranche = np.bincount(judgments.tranche, minlength=len(TRANCHES))
    by_mode = np.bincount(judgments.mode, minlength=len(MODES))
    return Counts(
        comparisons={state: rows.states.get(state, 0) for state in ("open", "judged", "void")},
        void_reasons=tuple(VoidReason(reason=reason, comparisons=n) for reason, n in rows.void_reasons.most_common()),
        judgments=len(judgments),
        corrected=rows.corrected,
        imported=int(judgments.is_imported.sum()),
        conversations=rows.openings.conversations,
        workers=len(np.unique(judgments.worker[judgments.by_someone])),
        by_tranche={tranche: int(n) for tranche, n in zip(TRANCHES, by_tranche, strict=True)},
        by_mode={mode: int(n) for mode, n in zip(MODES, by_mode, strict=True)},
        by_grade=grade_counts(judgments.grade),
        weakest_share=weakest(judgments, seed),
        void_share=share(comparisons.is_void, comparisons.conversation, seed, "No comparison has been finished."),
    )


def weakest(judgments: Judgments, seed: int) -> Measured:
    """Share of graded judgments that say 'about the same'."""
    graded = judgments.where(judgments.grade > 0)
    why = f"None of {len(judgments)} judgments has a grade (imports without strength do not)."
    return share(graded.is_weakest, graded.conversation, seed, why)


def shared_judgments(judgments: Judgments) -> Judgments:
    """Judgments by somebody on comparisons that two or more people judged; equal replies say nothing."""
    usable = judgments.where(judgments.by_someone & ~judgments.are_identical)
    codes, _ = label_codes(usable.comparison)
    return usable.where(np.bincount(codes)[codes] > 1) if len(usable) else usable


def agreement(judgments: Judgments, seed: int) -> Agreement:
    """Agreement between workers; pairs of identical responses say nothing and are left out."""
    shared = shared_judgments(judgments)
    if len(shared) == 0:
        unknown = Measured(unknown=why_no_overlap(judgments))
        return Agreement(comparisons=0, raw=unknown, alpha_side=unknown, alpha_grade=unknown)
    if why := why_one_sided(shared):
        unknown = Measured(unknown=why)
        comparisons = len(np.unique(shared.comparison))
        return Agreement(comparisons=comparisons, raw=unknown, alpha_side=unknown, alpha_grade=unknown)
    units, clusters = shared.comparison, shared.conversation
    sides = shared.preferred_a.astype(np.float64)
    graded = shared.where(shared.grade > 0)
    return Agreement(
        comparisons=len(np.unique(units)),
        raw=measured(lambda: raw_agreement(units, sides, clusters, seed=seed)),
        alpha_side=measured(lambda: krippendorff_alpha(units, sides, clusters, seed=seed)),
        alpha_grade=measured(
            lambda: krippendorff_alpha(
                graded.comparison, graded.grade.astype(np.float64), graded.conversation, metric="ordinal", seed=seed
            )
        ),
    )


def why_one_sided(shared: Judgments) -> str:
    """Why agreement tells nothing of noise: all shared judgments prefer one side. Empty: they do not."""
    if len(shared) == 0 or shared.preferred_a.any() != shared.preferred_a.all():
        return ""
    side = "A" if shared.preferred_a.all() else "B"
    return (
        f"All {len(shared)} judgments on comparisons that several workers judged prefer side {side}; whether they saw "
        "the same or clicked the same cannot be told."
    )


class Agreeing(NamedTuple):
    """For each judgment: with how many others of the same comparison it agrees, and how many others there are."""

    agreeing: Floats
    others: Floats


def agreeing(shared: Judgments) -> Agreeing:
    """Counts for `shared_judgments`."""
    codes, _ = label_codes(shared.comparison)
    judges = np.bincount(codes)[codes].astype(np.float64)
    for_a = np.bincount(codes, weights=shared.preferred_a)[codes]
    same = np.where(shared.preferred_a, for_a, judges - for_a)
    return Agreeing(np.asarray(same - 1, dtype=np.float64), np.asarray(judges - 1, dtype=np.float64))


def retest(judgments: Judgments, seed: int) -> Measured:
    """Whether a worker who met the same context and replies again preferred the same reply again."""
    rows = judgments.where(judgments.by_someone & ~judgments.are_identical)
    order = np.lexsort((np.arange(len(rows)), rows.pair, rows.worker))
    worker, pair, preferred = rows.worker[order], rows.pair[order], rows.preferred_text[order]
    is_again = (worker[1:] == worker[:-1]) & (pair[1:] == pair[:-1])
    is_same = preferred[1:] == preferred[:-1]
    why = "No worker met the same pair twice; repeat some pairs with the sides swapped."
    return share(is_same[is_again], rows.conversation[order][1:][is_again], seed, why)


def with_researchers(judgments: Judgments, researchers: Ints, seed: int) -> ResearcherAgreement:
    """Workers against researchers on the same comparisons, each pair of their judgments once.

    Args:
        researchers: their worker codes.
    """
    is_theirs = np.isin(judgments.worker, researchers)
    usable = judgments.by_someone & ~judgments.are_identical
    theirs = judgments.where(usable & is_theirs)
    others = judgments.where(usable & ~is_theirs & np.isin(judgments.comparison, theirs.comparison))
    order = np.argsort(others.comparison, kind="stable")
    begin, end = (np.searchsorted(others.comparison[order], theirs.comparison, side=side) for side in ("left", "right"))
    first = theirs.where(np.repeat(np.arange(len(theirs)), end - begin))
    places = [order[one:other] for one, other in zip(begin, end, strict=True)]
    second = others.where(np.concatenate([*places, np.zeros(0, dtype=np.int64)]).astype(np.int64))
    if len(first) == 0:
        who = "judged nothing that a worker judged" if len(theirs) else "have judged nothing"
        unknown = Measured(unknown=f"Researchers {who}; let one judge a part of the comparisons.")
        return ResearcherAgreement(pairs=0, raw=unknown, kappa_side=unknown, kappa_grade=unknown)
    clusters = first.conversation
    graded = (first.grade > 0) & (second.grade > 0)
    return ResearcherAgreement(
        pairs=len(first),
        raw=share(first.preferred_a == second.preferred_a, clusters, seed, ""),
        kappa_side=measured(
            lambda: cohen_kappa(
                first.preferred_a.astype(np.float64), second.preferred_a.astype(np.float64), clusters, seed=seed
            )
        ),
        kappa_grade=measured(
            lambda: cohen_kappa(
                first.grade[graded].astype(np.float64),
                second.grade[graded].astype(np.float64),
                clusters[graded],
                weights="quadratic",
                seed=seed,
            )
        ),
    )


def side_a(judgments: Judgments, seed: int) -> Measured:
    """Share of clicks on A. Imported judgments are left out: nobody saw their sides."""
    seen = judgments.where(judgments.is_seen)
    why = "No judgment was made on a page, so nothing is known of its sides."
    return share(seen.clicked_a, seen.conversation, seed, why)


def finished_first(judgments: Judgments, seed: int) -> Measured:
    """Share of clicks on the response that was complete first. Shorter ones finish first, so read it beside length."""
    timed = judgments.where(judgments.is_seen & (judgments.first_done != 0))
    why = "No comparison has different finishing times for its two responses."
    return share(timed.clicked_a == (timed.first_done > 0), timed.conversation, seed, why)


def length(judgments: Judgments, seed: int) -> LengthEffect:
    """Length and preference."""
    if len(judgments) == 0:
        unknown = Measured(unknown="There are no judgments in this mode.")
        return LengthEffect(longer_wins=unknown, slope=unknown)
    try:
        bias = length_bias(
            judgments.length_a.astype(np.float64),
            judgments.length_b.astype(np.float64),
            judgments.preferred_a.astype(np.float64),
            judgments.conversation,
            seed=seed,
        )
    except DataError as error:
        unknown = Measured(unknown=str(error))
        return LengthEffect(longer_wins=unknown, slope=unknown)
    slope = bias.slope
    return LengthEffect(
        longer_wins=known(bias.longer_wins, LEAST_CLUSTERS),
        slope=Measured(unknown=bias.why_none) if slope is None else known(slope, LEAST_CLUSTERS),
    )


def mean_seconds(seconds: Floats, judgments: Judgments, seed: int, since: str) -> Measured:
    """Geometric mean: half a second and two minutes are as far from eight seconds as they feel."""
    is_timed = np.isfinite(seconds)
    if not is_timed.any():
        return Measured(unknown=f"No judgment has a time between {since} and the decision.")
    logs = np.log(seconds[is_timed])
    return geometric(measured(lambda: clustered_mean(logs, judgments.conversation[is_timed], seed=seed)))


def is_too_fast(judgments: Judgments, fastest: float) -> Flags:
    """Both replies read at more than `fastest` characters a second; False where the time is not known."""
    with np.errstate(invalid="ignore"):
        pace = (judgments.length_a + judgments.length_b) / judgments.reading_seconds
        return np.asarray(pace > fastest, dtype=np.bool_)


def too_fast(judgments: Judgments, fastest: float, seed: int) -> Measured:
    """Share of judgments made faster than anybody reads, of those with a time."""
    timed = judgments.where(np.isfinite(judgments.reading_seconds))
    why = "No judgment has a time between the first token and the decision."
    return share(is_too_fast(timed, fastest), timed.conversation, seed, why)


def concentration(judgments: Judgments, seed: int) -> Concentration:
    """How unevenly the judgments lie on workers."""
    people = judgments.worker[judgments.by_someone]
    work = np.unique(people, return_counts=True)[1]
    return Concentration(
        top_20=measured(lambda: top_share(work, seed=seed), "workers"),
        gini=measured(lambda: gini(work, seed=seed), "workers"),
    )


def duplicates(rows: Rows, near: Sequence[NearDuplicate], seed: int) -> Duplicates:
    """Repeated and nearly repeated openings, and pairs of one text; `near` are pairs among the first openings."""
    openings, comparisons = rows.openings, rows.comparisons
    checked = list(openings.texts.values())[:MOST_TEXTS_FOR_NEAR_COPIES]
    is_judged = ~comparisons.is_void
    return Duplicates(
        openings=len(openings),
        repeated_openings=share(openings.is_repeated(), openings.conversation, seed, "There are no conversations."),
        most_repeated=tuple(openings.most_repeated(_SHOWN)),
        near_copies=len(near),
        near_copy_examples=tuple((checked[p.first], checked[p.second], p.similarity) for p in near[:_SHOWN]),
        openings_checked=len(checked),
        identical_responses=share(
            comparisons.are_identical[is_judged],
            comparisons.conversation[is_judged],
            seed,
            "No comparison has been judged.",
        ),
    )


def why_no_overlap(judgments: Judgments) -> str:
    """The sentence that says why nothing is known of agreement."""
    if len(judgments) == 0:
        return "There are no judgments to compare."
    named = judgments.where(judgments.by_someone)
    if len(named) == 0:
        return "No judgment names its worker (imports do not), so agreement cannot be known."
    usable = named.where(~named.are_identical)
    workers = len(np.unique(usable.worker))
    if workers == 0:
        return f"All {len(named)} judgments are on two copies of one reply, which nobody can prefer to the other."
    if workers == 1:
        return "All judgments are one worker's; agreement needs a second worker on some of the same comparisons."
    return f"{workers} workers judged, but no comparison twice; set the study's overlap to 0.1 or more."
