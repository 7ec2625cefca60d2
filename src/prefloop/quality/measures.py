"""The numbers of a report from rows: each measured with its interval, or the reason why not. Knows no store.

Intervals are clustered by conversation: they say how far the number would move with other conversations of the same
workers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from prefloop.errors import DataError
from prefloop.quality.nouns import Agreement, Counts, Duplicates, LengthEffect, Measured, VoidReason
from prefloop.quality.rows import JudgmentRow, Opening, Rows
from prefloop.schema import GRADES, Interval, Mode, Tranche
from prefloop.stats import (
    clustered_mean,
    clustered_share,
    duplicate_groups,
    krippendorff_alpha,
    length_bias,
    near_duplicates,
    normalised,
    raw_agreement,
)

MOST_TEXTS_FOR_NEAR_COPIES = 4000
"""Different openings that are compared with each other; the earliest ones, so that the number is the same each time."""
_SHOWN = 8


def measured(compute: Callable[[], Interval]) -> Measured:
    """The interval, or the sentence of the DataError that says what is missing; one cluster is no measurement."""
    try:
        interval = compute()
    except DataError as error:
        return Measured(unknown=str(error))
    if interval.clusters is not None and interval.clusters < 2:
        return Measured(unknown=f"All {interval.n} observations come from one conversation; a second one is needed.")
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Measured(unknown=f"The {interval.n} observations do not bound the number; collect more.")
    return Measured(interval=interval)


def share(values: Sequence[bool], clusters: Sequence[str], seed: int, why_none: str) -> Measured:
    """A share with its interval, or `why_none` where there is nothing to count."""
    return measured(lambda: clustered_share(values, clusters, seed=seed)) if values else Measured(unknown=why_none)


def counts(rows: Rows, seed: int) -> Counts:
    """How much there is of everything."""
    judgments = rows.judgments
    reasons = Counter(row.void_reason or "no reason given" for row in rows.comparisons if row.state == "void")
    closed = [row for row in rows.comparisons if row.state != "open"]
    grades = Counter(row.grade for row in judgments)
    return Counts(
        comparisons={state: rows.states.get(state, 0) for state in ("open", "judged", "void")},
        void_reasons=tuple(VoidReason(reason=reason, comparisons=n) for reason, n in reasons.most_common()),
        judgments=len(judgments),
        corrected=rows.corrected,
        imported=sum(row.is_imported for row in judgments),
        conversations=len(rows.openings),
        workers=len({row.worker_id for row in judgments if row.worker_id is not None}),
        by_tranche={tranche: sum(row.tranche == tranche for row in judgments) for tranche in Tranche},
        by_mode={mode: sum(row.mode == mode for row in judgments) for mode in Mode},
        by_grade={grade: grades[grade] for grade in range(1, GRADES + 1)},
        weakest_share=weakest(judgments, seed),
        void_share=share(
            [row.state == "void" for row in closed],
            [row.conversation_id for row in closed],
            seed,
            "No comparison has been finished.",
        ),
    )


def weakest(judgments: Sequence[JudgmentRow], seed: int) -> Measured:
    """Share of graded judgments that say 'about the same'."""
    graded = [row for row in judgments if row.grade is not None]
    return share(
        [row.is_weakest for row in graded],
        [row.conversation_id for row in graded],
        seed,
        "No judgment has a grade (imports without strength do not).",
    )


def agreement(judgments: Sequence[JudgmentRow], seed: int) -> Agreement:
    """Agreement between workers; pairs of identical responses say nothing and are left out."""
    usable = [row for row in judgments if row.worker_id is not None and not row.are_identical]
    judges = Counter(row.comparison_id for row in usable)
    shared = [row for row in usable if judges[row.comparison_id] > 1]
    overlapping = len({row.comparison_id for row in shared})
    if not shared:
        unknown = Measured(unknown=_why_no_overlap(usable))
        return Agreement(comparisons=0, raw=unknown, alpha_side=unknown, alpha_grade=unknown)
    units, clusters = [row.comparison_id for row in shared], [row.conversation_id for row in shared]
    sides = [float(row.preferred == "a") for row in shared]
    graded = [row for row in shared if row.grade is not None]
    return Agreement(
        comparisons=overlapping,
        raw=measured(lambda: raw_agreement(units, sides, clusters, seed=seed)),
        alpha_side=measured(lambda: krippendorff_alpha(units, sides, clusters, seed=seed)),
        alpha_grade=measured(
            lambda: krippendorff_alpha(
                [row.comparison_id for row in graded],
                [float(row.grade or 0) for row in graded],
                [row.conversation_id for row in graded],
                metric="ordinal",
                seed=seed,
            )
        ),
    )


def retest(judgments: Sequence[JudgmentRow], seed: int) -> Measured:
    """Whether a worker who met the same context and replies again preferred the same reply again."""
    last: dict[tuple[str, bytes], bytes] = {}
    again: list[bool] = []
    clusters: list[str] = []
    for row in judgments:
        if row.worker_id is None or row.are_identical:
            continue
        key = (row.worker_id, row.pair)
        if key in last:
            again.append(row.preferred_text == last[key])
            clusters.append(row.conversation_id)
        last[key] = row.preferred_text
    return share(again, clusters, seed, "No worker met the same pair twice; repeat some pairs with the sides swapped.")


def side_a(judgments: Sequence[JudgmentRow], seed: int) -> Measured:
    """Share of clicks on A. Imported judgments are left out: nobody saw their sides."""
    seen = [row for row in judgments if not row.is_imported]
    return share(
        [row.clicked == "a" for row in seen],
        [row.conversation_id for row in seen],
        seed,
        "No judgment was made on a page, so nothing is known of its sides.",
    )


def finished_first(judgments: Sequence[JudgmentRow], seed: int) -> Measured:
    """Share of clicks on the response that was complete first. Shorter ones finish first, so read it beside length."""
    timed = [row for row in judgments if not row.is_imported and row.first_done is not None]
    return share(
        [row.clicked == row.first_done for row in timed],
        [row.conversation_id for row in timed],
        seed,
        "No comparison has different finishing times for its two responses.",
    )


def length(judgments: Sequence[JudgmentRow], seed: int) -> LengthEffect:
    """Length and preference."""
    if not judgments:
        unknown = Measured(unknown="There are no judgments in this mode.")
        return LengthEffect(longer_wins=unknown, slope=unknown)
    try:
        bias = length_bias(
            [row.length_a for row in judgments],
            [row.length_b for row in judgments],
            [row.preferred == "a" for row in judgments],
            [row.conversation_id for row in judgments],
            seed=seed,
        )
    except DataError as error:
        unknown = Measured(unknown=str(error))
        return LengthEffect(longer_wins=unknown, slope=unknown)
    slope = bias.slope
    return LengthEffect(
        longer_wins=measured(lambda: bias.longer_wins),
        slope=Measured(unknown=bias.why_none) if slope is None else measured(lambda: slope),
    )


def decision_seconds(judgments: Sequence[JudgmentRow], seed: int) -> Measured:
    """Geometric mean: half a second and two minutes are as far from eight seconds as they feel."""
    timed = [(row.decision_seconds, row.conversation_id) for row in judgments if row.decision_seconds is not None]
    if not timed:
        return Measured(unknown="No judgment has a time between both replies being complete and the decision.")
    logs = [math.log(seconds) for seconds, _ in timed]
    result = measured(lambda: clustered_mean(logs, [conversation for _, conversation in timed], seed=seed))
    if result.interval is None:
        return result
    ends = {name: math.exp(getattr(result.interval, name)) for name in ("value", "low", "high")}
    return Measured(interval=result.interval.model_copy(update=ends))


def copies(openings: Sequence[Opening]) -> list[bool]:
    """For each opening, whether an earlier one is the same once case, spacing and punctuation are ignored."""
    seen: set[str] = set()
    flags = []
    for opening in openings:
        text = normalised(opening.text)
        flags.append(bool(text) and text in seen)
        seen.add(text)
    return flags


def duplicates(rows: Rows, seed: int) -> Duplicates:
    """Repeated and nearly repeated openings, and pairs of one text."""
    openings = [opening for opening in rows.openings if opening.text]
    texts = [opening.text for opening in openings]
    different = list({normalised(text): text for text in reversed(texts)}.values())[::-1]
    checked = different[:MOST_TEXTS_FOR_NEAR_COPIES]
    near = near_duplicates(checked)
    groups = duplicate_groups(texts)[:_SHOWN]
    judged = [row for row in rows.comparisons if row.state == "judged"]
    return Duplicates(
        openings=len(openings),
        repeated_openings=share(
            copies(openings), [opening.conversation_id for opening in openings], seed, "There are no conversations."
        ),
        most_repeated=tuple((texts[group[0]], len(group)) for group in groups),
        near_copies=len(near),
        near_copy_examples=tuple((checked[p.first], checked[p.second], p.similarity) for p in near[:_SHOWN]),
        openings_checked=len(checked),
        identical_responses=share(
            [row.are_identical for row in judged],
            [row.conversation_id for row in judged],
            seed,
            "No comparison has been judged.",
        ),
    )


def _why_no_overlap(usable: Sequence[JudgmentRow]) -> str:
    workers = len({row.worker_id for row in usable})
    if workers == 0:
        return "No judgment names its worker (imports do not), so agreement cannot be known."
    if workers == 1:
        return "All judgments are one worker's; agreement needs a second worker on some of the same comparisons."
    return f"{workers} workers judged, but no comparison twice; set the study's overlap to 0.1 or more."
