"""The verdict: what the numbers say in plain words, and what to do next. Knows the report's numbers only.

A warning is given where the whole interval lies beyond a limit, so that a few early judgments raise no alarm, and a
good word where the whole interval lies within. In between the number stands in the report and the verdict is silent.
"""

from __future__ import annotations

from pydantic import Field

from prefloop.config import Config
from prefloop.quality.nouns import (
    Agreement,
    Counts,
    Duplicates,
    Finding,
    LengthEffect,
    Level,
    Measured,
    WorkerQuality,
)
from prefloop.schema import Interval, Mode


class Limits(Config):
    """Beyond these the verdict warns."""

    least_alpha: float = Field(0.2, ge=0.0, le=1.0, description="Krippendorff's alpha below which agreement is weak")
    most_side_share: float = Field(0.55, ge=0.0, le=1.0, description="share of judgments for one side")
    most_length_share: float = Field(0.65, ge=0.0, le=1.0, description="share of judgments for the longer reply")
    most_first_share: float = Field(0.6, ge=0.0, le=1.0, description="share for the side that finished first")
    most_void_share: float = Field(0.05, ge=0.0, le=1.0, description="share of comparisons that are void")
    most_weakest_share: float = Field(0.4, ge=0.0, le=1.0, description="share of judgments with the weakest grades")
    most_repeated_openings: float = Field(0.2, ge=0.0, le=1.0, description="of conversations that open like another")
    most_identical_responses: float = Field(0.05, ge=0.0, le=1.0, description="of comparisons with equal sides")
    least_retest: float = Field(0.6, ge=0.0, le=1.0, description="of repeated judgments that agree")


def verdict(
    counts: Counts,
    agreement: Agreement,
    retest: Measured,
    side_a: Measured,
    finished_first: Measured,
    length: dict[Mode, LengthEffect],
    duplicates: Duplicates,
    workers: tuple[WorkerQuality, ...],
    limits: Limits,
) -> tuple[Finding, ...]:
    """Findings, warnings first."""
    if counts.judgments == 0:
        return (
            Finding(
                level="unknown",
                sentence="There are no judgments yet, so nothing can be said about their quality.",
                next_step="Collect on the page (prefloop serve) or import a data set (prefloop import).",
            ),
        )
    findings = [
        *_agreement(agreement, limits),
        *_sides(side_a, limits),
        *_first(finished_first, limits),
        *(finding for mode, effect in length.items() for finding in _length(mode, effect, limits)),
        *_people(workers),
        *_retest(retest, limits),
        *_waste(counts, duplicates, limits),
    ]
    order: tuple[Level, ...] = ("warning", "unknown", "good")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def _agreement(agreement: Agreement, limits: Limits) -> list[Finding]:
    alpha = agreement.alpha_side.interval
    if alpha is None or agreement.raw.interval is None:
        why = agreement.alpha_side.unknown or agreement.raw.unknown
        return [Finding(level="unknown", sentence=f"Agreement is not known. {why}")]
    raw = agreement.raw.interval
    words = (
        f"Two workers prefer the same reply in {_percent(raw)} of shared judgments and alpha is {_number(alpha)} "
        "(0 is chance, 1 is perfect)"
    )
    if alpha.high < limits.least_alpha:
        step = (
            "Read some disagreements together and sharpen the instructions: nobody can learn what people do not share."
        )
        return [Finding(level="warning", sentence=f"Workers hardly agree. {words}.", next_step=step)]
    if alpha.low > limits.least_alpha:
        return [Finding(level="good", sentence=f"Workers agree beyond chance. {words}.")]
    return [
        Finding(
            level="unknown",
            sentence=f"Agreement is not settled yet. {words}.",
            next_step="Let a second worker judge more of the comparisons.",
        )
    ]


def _sides(side_a: Measured, limits: Limits) -> list[Finding]:
    if (share := side_a.interval) is None:
        return [Finding(level="unknown", sentence=f"Position bias is not known. {side_a.unknown}")]
    words = f"{_percent(share)} of clicks fell on the side shown as A; sides are drawn by chance, so 50% is fair"
    if _beyond(share, limits.most_side_share):
        step = (
            "See which workers it comes from; sides are random, so it adds noise to the data rather than a direction."
        )
        return [Finding(level="warning", sentence=f"Clicks lean to one side. {words}.", next_step=step)]
    if _within(share, limits.most_side_share):
        return [Finding(level="good", sentence=f"Clicks do not lean to a side. {words}.")]
    return []


def _first(finished_first: Measured, limits: Limits) -> list[Finding]:
    if (share := finished_first.interval) is None or not _beyond(share, limits.most_first_share):
        return []
    return [
        Finding(
            level="warning",
            sentence=f"{_percent(share)} of clicks fell on the response that was complete first.",
            next_step="Compare with the length effect: a short reply is complete first and may also be the better one.",
        )
    ]


def _length(mode: Mode, effect: LengthEffect, limits: Limits) -> list[Finding]:
    share = effect.longer_wins.interval
    if share is None or not _beyond(share, limits.most_length_share):
        return []
    which, share = ("longer", share) if share.value > 0.5 else ("shorter", _mirrored(share))
    place = f"In {mode.value.replace('_', '-')} mode"
    return [
        Finding(
            level="warning",
            sentence=f"{place} the {which} reply is preferred in {_percent(share)} of pairs.",
            next_step="Hold every preference model against this baseline, and read pairs in which length is all.",
        )
    ]


def _people(workers: tuple[WorkerQuality, ...]) -> list[Finding]:
    flagged = [worker for worker in workers if worker.flags]
    if flagged:
        names = ", ".join(f"{worker.pseudonym} ({worker.flags[0].split(':')[0]})" for worker in flagged[:6])
        more = f" and {len(flagged) - 6} more" if len(flagged) > 6 else ""
        step = "Read some of their conversations before deciding anything; the table of workers says what stood out."
        sentence = f"{len(flagged)} of {len(workers)} workers stand out: {names}{more}."
        return [Finding(level="warning", sentence=sentence, next_step=step)]
    if len(workers) > 1:
        return [Finding(level="good", sentence=f"None of the {len(workers)} workers stands out in what is tested.")]
    return []


def _retest(retest: Measured, limits: Limits) -> list[Finding]:
    if (share := retest.interval) is None or share.high >= limits.least_retest:
        return []
    return [
        Finding(
            level="warning",
            sentence=f"Workers who met a pair again kept their preference in only {_percent(share)}.",
            next_step="Shorten the sessions or ask for fewer comparisons of near-equal replies.",
        )
    ]


def _waste(counts: Counts, duplicates: Duplicates, limits: Limits) -> list[Finding]:
    """Shares of work that teach nothing."""
    checks = (
        (
            counts.void_share,
            limits.most_void_share,
            "of finished comparisons are void",
            "Read the reasons below and mend the model server first.",
        ),
        (
            counts.weakest_share,
            limits.most_weakest_share,
            "of judgments have one of the two middle grades, which training leaves out",
            "Let more different snapshots meet, or sample at a higher temperature.",
        ),
        (
            duplicates.repeated_openings,
            limits.most_repeated_openings,
            "of conversations open with words that came before",
            "Ask for new topics; split data by opening so that no copy stands in both training and test.",
        ),
        (
            duplicates.identical_responses,
            limits.most_identical_responses,
            "of judged comparisons show one text twice",
            "Raise the temperature or let different snapshots answer.",
        ),
    )
    return [
        Finding(level="warning", sentence=f"{_percent(share.interval)} {words}.", next_step=step)
        for share, most, words, step in checks
        if share.interval is not None and share.interval.low > most
    ]


def _beyond(share: Interval, most: float) -> bool:
    """The whole interval lies further from one half than `most` does, on either side."""
    return share.low > most or share.high < 1 - most


def _within(share: Interval, most: float) -> bool:
    return share.low > 1 - most and share.high < most


def _mirrored(share: Interval) -> Interval:
    return share.model_copy(update={"value": 1 - share.value, "low": 1 - share.high, "high": 1 - share.low})


def _percent(share: Interval) -> str:
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _number(value: Interval) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
