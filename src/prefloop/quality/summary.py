"""The quality report as some lines for a terminal: the verdict first, then the main numbers. Knows its nouns alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from prefloop.quality.measured import Measured
from prefloop.quality.nouns import QualityReport
from prefloop.quality.words import plural
from prefloop.report import format_count, format_interval

_WIDTH = 100
_MARKS = {"warning": "WARNING", "unknown": "unknown", "good": "good"}
_MOST_FLAGGED = 12


def summary(report: QualityReport) -> str:
    """What a reader needs first. A number that is not known is left out; the verdict or the page says why."""
    return "\n".join(_lines(report))


def _lines(report: QualityReport) -> Iterator[str]:
    counts = report.counts
    yield (
        f"Quality of {report.scope}: {plural(counts.judgments, 'judgment')} by {plural(counts.workers, 'worker')} "
        f"in {plural(counts.conversations, 'conversation')}"
    )
    for finding in report.verdict:
        words = " ".join(part for part in (finding.sentence, finding.next_step) if part)
        yield from textwrap.wrap(
            words, _WIDTH, initial_indent=f"  {_MARKS[finding.level]:8}", subsequent_indent=" " * 10
        )
    known = {name: part for name, part in _numbers(report).items() if part.interval is not None}
    if known:
        yield ""
        yield "Numbers, 95% interval"
        width = max(map(len, known))
        for name, part in known.items():
            assert part.interval is not None
            yield f"  {name:{width}}  {format_interval(part.interval)}  ({format_count(part.interval)})"
    flagged = [(worker.pseudonym, flag) for worker in report.workers for flag in worker.flags]
    if flagged:
        yield ""
        yield f"Flags ({plural(len(flagged), 'flag')}; each is a reason to read, none a ground for exclusion)"
        for name, flag in flagged[:_MOST_FLAGGED]:
            yield f"  {name}: {flag.sentence} [{flag.kind}, chance {flag.chance:.1g}]"
        if len(flagged) > _MOST_FLAGGED:
            yield f"  and {len(flagged) - _MOST_FLAGGED} more"
    yield ""
    yield "All of it: --html FILE for the page, --json for every number with its interval and n."


def _numbers(report: QualityReport) -> dict[str, Measured]:
    if not report.counts.judgments:
        return {}
    found = {
        "agreement of two workers": report.agreement.raw,
        "alpha on the side": report.agreement.alpha_side,
        "alpha on the grade": report.agreement.alpha_grade,
        "agreement with researchers": report.researchers.raw,
        "same preference when met again": report.retest,
        "clicks on side A": report.side_a,
        "middle grades": report.counts.weakest_share,
    }
    found |= {
        f"longer reply preferred, {mode.value.replace('_', '-')}": part.longer_wins
        for mode, part in report.length.items()
    }
    found["suggested label_smoothing"] = report.label_smoothing
    return found | {f"label noise, {tranche.name}": tranche.label_noise for tranche in report.items.tranches}
