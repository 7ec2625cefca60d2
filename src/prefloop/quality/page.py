"""The quality report as a page for people. Knows the report's nouns and the page builder, and no store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.quality.drift_page import add_drift
from prefloop.quality.items_page import add_items
from prefloop.quality.measured import Measured
from prefloop.quality.nouns import QualityReport, WorkerQuality
from prefloop.quality.words import clipped, number_or_reason, plural
from prefloop.report import Cell, Report, Tile, bar_plot, interval_plot
from prefloop.report.pages import Tone
from prefloop.schema import Interval

_TONES: dict[str, Tone] = {"good": "good", "warning": "warning", "unknown": "plain"}
_MOST_WORKERS_DRAWN, _MOST_WORKERS_IN_TABLE = 40, 200


def write_html(report: QualityReport, path: Path) -> Path:
    """Writes the page to `path` and the report's JSON dump beside it (same name, `.json`); returns `path`.

    Errors:
        UserError: the folder cannot be written.
    """
    return report_page(report).write(path, data=report.model_dump(mode="json"))


def report_page(report: QualityReport) -> Report:
    """The page itself."""
    page = Report("Data quality", f"What the judgments are worth: {report.scope}.", report.created_at)
    _verdict(page, report)
    _counts(page, report)
    if report.counts.judgments:
        _agreement(page, report)
        _biases(page, report)
        _workers(page, report)
        add_items(page, report.items)
        add_drift(page, report.drift)
    if report.duplicates.openings:
        _duplicates(page, report)
    return page


def _verdict(page: Report, report: QualityReport) -> None:
    page.section("Verdict")
    for finding in report.verdict:
        page.paragraph(" ".join(part for part in (finding.sentence, finding.next_step) if part), _TONES[finding.level])
    if report.counts.judgments:
        counts = report.counts
        page.tiles(
            [
                Tile("Judgments", counts.judgments, plural(counts.workers, "worker")),
                Tile("Conversations", counts.conversations),
                _tile("Agreement of two workers", report.agreement.raw, "share of the same preference"),
                _tile("Alpha, on the side", report.agreement.alpha_side, "0 chance, 1 perfect"),
                _tile("Clicks on side A", report.side_a, "0.5 is fair"),
                _tile("Middle grades", counts.weakest_share, "left out of training"),
            ]
        )


def _counts(page: Report, report: QualityReport) -> None:
    counts = report.counts
    page.section("What there is")
    page.table(["comparisons", "count"], list(counts.comparisons.items()), "Comparisons by state")
    if counts.void_reasons:
        rows = [(reason.reason, reason.comparisons) for reason in counts.void_reasons]
        page.table(["why void", "comparisons"], rows, "Why comparisons are void")
    if not counts.judgments:
        return
    number_or_reason(page, "Share of finished comparisons that are void", counts.void_share)
    kinds = [(f"tranche: {_words(tranche)}", n) for tranche, n in counts.by_tranche.items() if n]
    kinds += [(f"mode: {_words(mode)}", n) for mode, n in counts.by_mode.items() if n]
    kinds += [("imported from files", counts.imported), ("corrected by a later judgment", counts.corrected)]
    page.table(["judgments", "count"], kinds, "Judgments by kind")
    if any(counts.by_grade.values()):
        page.plot(
            bar_plot(
                {str(grade): n for grade, n in counts.by_grade.items()},
                title="Grades in shown order",
                x_label="grade (1: A is much better ... 8: B is much better)",
                y_label="judgments",
            ),
            "4 and 5 mean about the same and are left out of training.",
        )


def _agreement(page: Report, report: QualityReport) -> None:
    page.section("Agreement")
    both = report.agreement, report.agreement_without_weakest
    if all(part.raw.interval is None for part in both):
        page.paragraph(f"Agreement between workers is not known. {report.agreement.raw.unknown}")
    else:
        page.paragraph(
            f"{plural(report.agreement.comparisons, 'comparison')} were judged by two or more workers. In the paper "
            "researchers and workers agreed in about 63%. Low agreement may mean hard pairs as well as careless people."
        )
        rows: list[list[Cell]] = [
            ["same preferred side (share of pairs of judgments)", *(_cell(part.raw) for part in both)],
            ["alpha on the side (nominal)", *(_cell(part.alpha_side) for part in both)],
            ["alpha on the grade (ordinal)", *(_cell(part.alpha_grade) for part in both)],
        ]
        page.table(["", "all judgments", "without middle grades"], rows)
        reasons = {m.unknown for part in both for m in (part.raw, part.alpha_side, part.alpha_grade) if m.unknown}
        for reason in sorted(reasons):
            page.paragraph(f"Not known: {reason}")
    researchers = report.researchers
    if researchers.pairs:
        page.table(
            ["workers and researchers", "agreement"],
            [
                ("same preferred side", researchers.raw.interval),
                ("Cohen's kappa on the side", researchers.kappa_side.interval),
                ("Cohen's kappa on the grade, squared", researchers.kappa_grade.interval),
            ],
            f"On {plural(researchers.pairs, 'pair')} of judgments; about 63% in the paper",
        )
    else:
        page.paragraph(f"Agreement of workers with researchers: not known. {researchers.raw.unknown}")
    number_or_reason(page, "The same preference when a worker met a pair again", report.retest)


def _biases(page: Report, report: QualityReport) -> None:
    page.section("Position, speed and length")
    known = {"clicked A": report.side_a, "clicked the one complete first": report.finished_first}
    known |= {f"preferred the longer ({_words(mode)})": effect.longer_wins for mode, effect in report.length.items()}
    drawn = {name: part.interval for name, part in known.items() if part.interval is not None}
    if drawn:
        page.plot(
            interval_plot(drawn, title="Clicks and preferences against one half", x_label="share", reference=0.5),
            "A longer reply may also be the better one; compare preference models with this baseline.",
        )
    for name, part in known.items():
        if part.unknown:
            page.paragraph(f"Not known, {name}: {part.unknown}")
    for mode, effect in report.length.items():
        name = f"Log-odds of being preferred per unit of ln(length ratio), {_words(mode)} mode"
        number_or_reason(page, name, effect.slope)
    since_both = "Seconds from both replies complete to the judgment (geometric mean)"
    number_or_reason(page, since_both, report.decision_seconds)
    since_first = "Seconds from the first token to the judgment (geometric mean)"
    number_or_reason(page, since_first, report.reading_seconds)
    number_or_reason(page, "Judgments made faster than both replies can be read", report.too_fast)


def _workers(page: Report, report: QualityReport) -> None:
    page.section("Workers")
    workers = report.workers
    if not workers:
        page.paragraph("No judgment names its worker (imports do not), so nothing is known of single workers.")
        return
    page.paragraph(
        "A flag is a reason to read some of the work and never a ground for exclusion by itself. Agreement with others "
        "falls on hard topics too; noise is the chance to prefer the worse side of a typical comparison, with the "
        "difficulty of the comparisons taken out, and half is a coin."
    )
    flagged = [(worker.pseudonym, flag.kind, flag.sentence, flag.chance) for worker in workers for flag in worker.flags]
    if flagged:
        page.table(["worker", "flag", "what stands out", "chance of an ordinary worker"], flagged, "Flags")
    rules = [(rule.kind, rule.rule, rule.false_alarms) for rule in report.flag_rules]
    page.table(
        ["flag", "raised when", "false alarms (reports on honest workers, at most)"], rules, "Rules of the flags"
    )
    number_or_reason(page, "Noise of the mean worker", report.noise.typical)
    number_or_reason(page, "Suggested label_smoothing", report.label_smoothing)
    number_or_reason(page, "Share of the judgments that the 20 busiest workers made", report.concentration.top_20)
    number_or_reason(page, "Gini coefficient of judgments over workers", report.concentration.gini)
    _worker_plots(page, workers[:_MOST_WORKERS_DRAWN])
    first = ["worker", "judgments", "noise", "weight", "agrees with others", "clicks on A", "prefers longer"]
    second = [
        "worker",
        "first complete",
        "middle grades",
        "decision (s)",
        "reading (s)",
        "too fast",
        "run",
        "own copies",
    ]
    third = ["worker", "opening (characters)", "variety", "long turns too fast"]
    shown = workers[:_MOST_WORKERS_IN_TABLE]
    rest = len(workers) - len(shown)
    note = f"; the {rest} with the fewest judgments stand in the JSON alone" if rest else ""
    page.table(first, [_worth(worker) for worker in shown], f"Workers; a dash is what is not known{note}")
    page.table(second, [_habits(worker) for worker in shown], "Habits of the same workers")
    page.table(third, [_writing(worker) for worker in shown], "Their writing; variety is 0 if all openings are alike")
    if simulated := sum(worker.is_simulated for worker in workers):
        page.paragraph(
            f"{simulated} of {plural(len(workers), 'worker')} {'is' if simulated == 1 else 'are'} simulated."
        )


def _worker_plots(page: Report, workers: Sequence[WorkerQuality]) -> None:
    plots = (
        (
            "Noise by worker",
            "chance of the worse side",
            {worker.pseudonym: worker.noise.interval for worker in workers},
            "One half is a coin, beyond it somebody prefers what all others think worse.",
        ),
        (
            "Clicks on side A by worker",
            "share of clicks on A",
            {worker.pseudonym: worker.side_a.interval for worker in workers},
            "Sides are drawn by chance for every comparison, so a fair worker stands at one half.",
        ),
    )
    for title, x_label, values, words in plots:
        drawn = {name: interval for name, interval in values.items() if interval is not None}
        if drawn:
            page.plot(interval_plot(drawn, title=title, x_label=x_label, reference=0.5), words)


def _worth(worker: WorkerQuality) -> list[Cell]:
    parts = (worker.agreement, worker.side_a, worker.longer)
    return [worker.pseudonym, worker.judgments, _cell(worker.noise), worker.weight, *(_cell(part) for part in parts)]


def _habits(worker: WorkerQuality) -> list[Cell]:
    parts = (worker.finished_first, worker.weakest, worker.decision_seconds, worker.reading_seconds, worker.too_fast)
    return [worker.pseudonym, *(_cell(part) for part in parts), worker.longest_run, _cell(worker.own_copies)]


def _writing(worker: WorkerQuality) -> list[Cell]:
    return [worker.pseudonym, *(_cell(part) for part in (worker.opening_characters, worker.variety, worker.pasted))]


def _duplicates(page: Report, report: QualityReport) -> None:
    found = report.duplicates
    page.section("Repeated texts")
    number_or_reason(page, "Conversations whose opening copies an earlier one", found.repeated_openings)
    number_or_reason(page, "Judged comparisons whose two responses are one text", found.identical_responses)
    if found.most_repeated:
        page.table(["opening", "times"], [(clipped(text), n) for text, n in found.most_repeated], "Most repeated")
    page.paragraph(
        f"{plural(found.near_copies, 'pair')} of nearly equal openings among "
        f"{plural(found.openings_checked, 'different opening')}."
    )
    if found.near_copy_examples:
        rows = [(clipped(first), clipped(second), alike) for first, second, alike in found.near_copy_examples]
        page.table(["one opening", "another", "similarity"], rows, "Most alike")


def _tile(label: str, part: Measured, note: str) -> Tile:
    return Tile(label, part.interval, note if part.interval else part.unknown)


def _cell(part: Measured) -> Interval | None:
    return part.interval


def _words(value: str) -> str:
    return str(value).replace("_", " ")
