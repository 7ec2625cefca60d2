"""The verdict: what the numbers say in plain words, and what to do next. Knows the report's numbers only.

A warning is given where the whole interval lies beyond a limit, so that a few early judgments raise no alarm, and a
good word where the whole interval lies within. In between the number stands in the report and the verdict is silent.
"""

from __future__ import annotations

from prefloop.config import QualitySettings, QualitySubject
from prefloop.quality.measured import Measured
from prefloop.quality.nouns import Agreement, Finding, LengthEffect, Level, QualityReport
from prefloop.schema import Interval, Mode


def verdict(report: QualityReport, limits: QualitySettings) -> tuple[Finding, ...]:
    """Findings on the numbers of a report, warnings first."""
    if report.counts.judgments == 0:
        nothing = Finding(
            subject="judgments",
            level="unknown",
            sentence="There are no judgments yet, so nothing can be said about their quality.",
            next_step="Collect on the page (prefloop serve) or import a data set (prefloop import).",
        )
        return (*(finding for finding in _waste(report, limits) if finding.subject == "void"), nothing)
    findings = [
        *_agreement(report.agreement, limits),
        *_sides(report.side_a, limits),
        *_first(report.finished_first, limits),
        *(finding for mode, effect in report.length.items() for finding in _length(mode, effect, limits)),
        *_people(report),
        *_pace(report, limits),
        *_retest(report.retest, limits),
        *_waste(report, limits),
        *_leaks(report, limits),
        *_drift(report),
        *_researchers(report, limits),
    ]
    order: tuple[Level, ...] = ("warning", "unknown", "good")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def closed_gate(findings: tuple[Finding, ...], limits: QualitySettings) -> tuple[str, ...]:
    """Why the settings' gate says no: its warnings and, where they ask for it, what is not known. Empty: it is open."""
    bad: tuple[Level, ...] = ("warning", "unknown") if limits.gate_needs_known else ("warning",)
    named = [finding for finding in findings if finding.subject in limits.gate and finding.level in bad]
    nothing = [finding for finding in findings if finding.subject == "judgments" and limits.gate]
    said = {finding.subject for finding in findings}
    silent = [subject for subject in limits.gate if subject not in said] if limits.gate_needs_known else []
    unsettled = [f"Nothing certain can be said of {subject!r} yet." for subject in silent if not nothing]
    return tuple(finding.sentence for finding in [*nothing, *named]) + tuple(unsettled)


def _warning(subject: QualitySubject, sentence: str, next_step: str) -> list[Finding]:
    return [Finding(subject=subject, level="warning", sentence=sentence, next_step=next_step)]


def _agreement(agreement: Agreement, limits: QualitySettings) -> list[Finding]:
    alpha = agreement.alpha_side.interval
    if alpha is None or agreement.raw.interval is None:
        why = agreement.alpha_side.unknown or agreement.raw.unknown
        step = "Read some of the shared comparisons, and let a second worker judge more (the study's overlap)."
        step = step if agreement.comparisons else ""  # else the sentence says what is missing
        return [
            Finding(subject="agreement", level="unknown", sentence=f"Agreement is not known. {why}", next_step=step)
        ]
    raw = agreement.raw.interval
    words = (
        f"Two workers prefer the same reply in {_percent(raw)} of shared judgments and alpha is {_number(alpha)} "
        "(0 is chance, 1 is perfect)"
    )
    if alpha.high < limits.least_alpha:
        step = (
            "Read some disagreements together and sharpen the instructions: nobody can learn what people do not share."
        )
        return _warning("agreement", f"Workers hardly agree. {words}.", step)
    if alpha.low > limits.least_alpha:
        return [Finding(subject="agreement", level="good", sentence=f"Workers agree beyond chance. {words}.")]
    return [
        Finding(
            subject="agreement",
            level="unknown",
            sentence=f"Agreement is not settled yet. {words}.",
            next_step="Let a second worker judge more of the comparisons.",
        )
    ]


def _sides(side_a: Measured, limits: QualitySettings) -> list[Finding]:
    if (share := side_a.interval) is None:
        return [Finding(subject="side", level="unknown", sentence=f"Position bias is not known. {side_a.unknown}")]
    words = f"{_percent(share)} of clicks fell on the side shown as A; sides are drawn by chance, so 50% is fair"
    if _beyond(share, limits.most_side_share):
        step = (
            "See which workers it comes from; sides are random, so it adds noise to the data rather than a direction."
        )
        return _warning("side", f"Clicks lean to one side. {words}.", step)
    if _within(share, limits.most_side_share):
        return [Finding(subject="side", level="good", sentence=f"Clicks do not lean to a side. {words}.")]
    return []


def _first(finished_first: Measured, limits: QualitySettings) -> list[Finding]:
    if (share := finished_first.interval) is None or not _beyond(share, limits.most_first_share):
        return []
    return _warning(
        "first",
        f"{_percent(share)} of clicks fell on the response that was complete first.",
        "Compare with the length effect: a short reply is complete first and may also be the better one.",
    )


def _length(mode: Mode, effect: LengthEffect, limits: QualitySettings) -> list[Finding]:
    share = effect.longer_wins.interval
    if share is None or not _beyond(share, limits.most_length_share):
        return []
    which, share = ("longer", share) if share.value > 0.5 else ("shorter", _mirrored(share))
    place = f"In {mode.value.replace('_', '-')} mode"
    return _warning(
        "length",
        f"{place} the {which} reply is preferred in {_percent(share)} of pairs.",
        "Hold every preference model against this baseline, and read pairs in which length is all.",
    )


def _people(report: QualityReport) -> list[Finding]:
    workers = report.workers
    flagged = [worker for worker in workers if worker.flags]
    if flagged:
        names = ", ".join(f"{worker.pseudonym} ({worker.flags[0].kind})" for worker in flagged[:6])
        more = f" and {len(flagged) - 6} more" if len(flagged) > 6 else ""
        step = "Read some of their conversations before deciding anything; the table of workers says what stood out."
        sentence = f"{len(flagged)} of {len(workers)} workers stand out: {names}{more}."
        return _warning("workers", sentence, step)
    if len(workers) < 2:
        return []
    if report.noise.typical.interval is None:
        sentence = (
            f"Nothing stands out in the habits of {len(workers)} workers, but who of them errs more is not known."
        )
        step = "Errors show only where two people judge one pair of different replies."
        return [Finding(subject="workers", level="unknown", sentence=sentence, next_step=step)]
    sentence = f"None of the {len(workers)} workers stands out in what is tested."
    return [Finding(subject="workers", level="good", sentence=sentence)]


def _retest(retest: Measured, limits: QualitySettings) -> list[Finding]:
    if (share := retest.interval) is None or share.high >= limits.least_retest:
        return []
    return _warning(
        "retest",
        f"Workers who met a pair again kept their preference in only {_percent(share)}.",
        "Shorten the sessions or ask for fewer comparisons of near-equal replies.",
    )


def _pace(report: QualityReport, limits: QualitySettings) -> list[Finding]:
    """Simulated workers take no time to read; nobody is warned of them."""
    share = report.too_fast.interval
    if share is None or share.low <= limits.most_too_fast or _are_simulated(report):
        return []
    return _warning(
        "pace",
        f"{_percent(share)} of judgments were made faster than both replies can be read.",
        "Look at the pay and the length of sessions, and read what the fastest workers chose.",
    )


def _are_simulated(report: QualityReport) -> bool:
    return all(worker.is_simulated for worker in report.workers)


def _waste(report: QualityReport, limits: QualitySettings) -> list[Finding]:
    """Shares of work that teach nothing."""
    checks: tuple[tuple[QualitySubject, Measured, float, str, str], ...] = (
        (
            "void",
            report.counts.void_share,
            limits.most_void_share,
            "of finished comparisons are void",
            "Read the reasons below and mend the model server first.",
        ),
        (
            "weakest",
            report.counts.weakest_share,
            limits.most_weakest_share,
            "of judgments have one of the two middle grades, which training leaves out",
            "Let more different snapshots meet, or sample at a higher temperature.",
        ),
        (
            "repeated",
            report.duplicates.repeated_openings,
            limits.most_repeated_openings,
            "of conversations open with words that came before",
            "Ask for new topics; split data by opening so that no copy stands in both training and test.",
        ),
        (
            "identical",
            report.duplicates.identical_responses,
            limits.most_identical_responses,
            "of judged comparisons show one text twice",
            "Raise the temperature or let different snapshots answer.",
        ),
    )
    return [
        Finding(subject=subject, level="warning", sentence=f"{_percent(share.interval)} {words}.", next_step=step)
        for subject, share, most, words, step in checks
        if share.interval is not None and share.interval.low > most
    ]


def _leaks(report: QualityReport, limits: QualitySettings) -> list[Finding]:
    split = report.items.leaks.split
    share = None if split is None else split.share.interval
    if share is None or share.low <= limits.most_leaks:
        return []
    return _warning(
        "leaks",
        f"{_percent(share)} of the held-out openings are nearly in the training part too.",
        "Compare a PM's accuracy with and without them, and ask for fewer conversations that begin alike.",
    )


def _drift(report: QualityReport) -> list[Finding]:
    names = {"side_a": "clicks on A", "longer": "preference for the longer reply", "weakest": "middle grades"}
    names |= {"agreement": "agreement of workers", "too_fast": "judgments faster than read"}
    return [
        finding
        for change in report.drift.changes
        if change.measure != "too_fast" or not _are_simulated(report)
        for finding in _warning(
            "drift",
            f"Judging differs by {change.by}: {names[change.measure]} from {_percent(change.low)} ({change.lowest}) to "
            f"{_percent(change.high)} ({change.highest}).",
            "See what changed: people, instructions, models or topics.",
        )
    ]


def _researchers(report: QualityReport, limits: QualitySettings) -> list[Finding]:
    share = report.researchers.raw.interval
    if share is None or share.high >= limits.least_researchers:
        return []
    return _warning(
        "researchers",
        f"Workers prefer what researchers prefer in only {_percent(share)} of shared comparisons.",
        "Read the disagreements together; the instructions may say something else than is meant.",
    )


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
