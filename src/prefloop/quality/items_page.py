"""The part of the quality page on what was judged: tranches, leaks, topics, texts, scores. Knows nouns and no store."""

from __future__ import annotations

from prefloop.quality.item_nouns import ItemReport, Lengths, ScoreReport, Shared, Texts
from prefloop.quality.measured import LEAST_CLUSTERS
from prefloop.quality.words import clipped, number_or_reason, plural
from prefloop.report import Cell, Report, Series, format_interval, format_number, line_plot

_LEAST_DRAWN = 20
_MOST_TURNS = 8


def add_items(page: Report, items: ItemReport) -> None:
    """Adds the sections."""
    if not items.tranches:
        return
    _tranches(page, items)
    _leaks(page, items)
    _topics(page, items)
    if items.texts is not None:
        _texts(page, items.texts)
    _circles(page, items)
    for scores in items.scores:
        _scores(page, scores)


def _tranches(page: Report, items: ItemReport) -> None:
    page.section(
        "Tranches",
        "Comparisons that were judged and whose two replies differ, by mode and by the kind of model that answered.",
    )
    rows: list[list[Cell]] = [
        [part.name, part.comparisons, part.judgments, part.conversations, part.openings, part.longer_wins.interval]
        for part in items.tranches
    ]
    page.table(["tranche", "comparisons", "judgments", "conversations", "different openings", "longer preferred"], rows)
    rows = [
        [part.name, part.agreement.interval, part.label_noise.interval, part.ceiling.interval]
        for part in items.tranches
    ]
    page.table(
        ["tranche", "two workers agree", "label noise", "ceiling of a PM's accuracy"],
        rows,
        "Label noise that this agreement implies, and what it leaves; a dash is what is not known",
    )
    for reason in sorted({part.agreement.unknown for part in items.tranches if part.agreement.unknown}):
        page.paragraph(f"Not known: {reason}")
    rows = [[part.name, *_quantiles(part.replies), *_quantiles(part.prompts)] for part in items.tranches]
    page.table(
        ["tranche", *(f"{what} {name}" for what in ("reply", "turn") for name in ("5%", "median", "95%"))],
        rows,
        "Characters of replies, and of the user turns that they answer",
    )
    if drawn := [_turns(part.name, part.turns) for part in items.tranches if part.comparisons >= _LEAST_DRAWN]:
        page.plot(
            line_plot(
                drawn,
                title="Comparisons by turn",
                x_label="turn of the conversation",
                y_label="share of the tranche",
                y_range=(0.0, 1.1 * max(max(one.y) for one in drawn)),
            )
        )
    if items.compared_openings:
        rows = [[part.name, part.words.interval, part.topics.interval] for part in items.tranches]
        page.table(
            ["tranche", "different words", "topics as mixed"],
            rows,
            f"Diversity of {format_number(items.compared_openings)} openings of each, with what single draws give",
        )
    else:
        page.paragraph(f"Diversity: not known. {items.tranches[0].words.unknown}")


def _turns(name: str, turns: dict[int, int]) -> Series:
    total = sum(turns.values())
    shown = {turn: count for turn, count in sorted(turns.items()) if turn <= _MOST_TURNS}
    return Series(f"{name} (n {format_number(total)})", list(shown), [count / total for count in shown.values()])


def _quantiles(lengths: Lengths | None) -> tuple[Cell, ...]:
    return (None, None, None) if lengths is None else (lengths.p5, lengths.median, lengths.p95)


def _leaks(page: Report, items: ItemReport) -> None:
    leaks = items.leaks
    page.section(
        "Leaks",
        "Openings on both sides of a line, equal once case and punctuation are taken off, or at least 0.8 alike among "
        f"the first {plural(leaks.openings_checked, 'different opening')}. Runs hold conversations out by their exact "
        "opening, so equal ones never part.",
    )
    number_or_reason(page, "Comparisons that single held-out rows would leak, because others open alike", leaks.by_row)
    sides = [*([leaks.split] if leaks.split else []), *leaks.tranches]
    if not leaks.split:
        page.paragraph(f"No conversation falls among the {leaks.held_out_share:.0%} that runs hold out, or all do.")
    if not sides:
        return
    rows: list[list[Cell]] = [[side.first, side.second, side.exact, side.near, side.share.interval] for side in sides]
    page.table(["in", "and in", "equal", "nearly equal", "share of the second's openings"], rows, "Shared openings")
    found = [(f"{side.first} | {side.second}", *example) for side in sides for example in _examples(side)]
    if found:
        shown = [(names, clipped(one), clipped(other), alike) for names, one, other, alike in found]
        page.table(["between", "one opening", "another", "similarity"], shown, "Some of them")


def _examples(side: Shared) -> tuple[tuple[str, str, float], ...]:
    return side.examples[:3]


def _topics(page: Report, items: ItemReport) -> None:
    page.section("Topics", "Openings clustered by their words. Topics are a way to look at the data, not categories.")
    if items.topics_unknown:
        page.paragraph(items.topics_unknown)
        return
    names = [part.name for part in items.tranches]
    rows: list[list[Cell]] = [
        [", ".join(topic.words), topic.share, *(topic.by_tranche[name] for name in names)] for topic in items.topics
    ]
    page.table(["telling words", "share", *names], rows, "Topics and their share of each tranche's openings")
    page.table(
        ["telling words", "typical openings"],
        [
            (", ".join(topic.words[:3]), " | ".join(clipped(text, 90) for text in topic.examples))
            for topic in items.topics
        ],
        "Examples",
    )


def _texts(page: Report, texts: Texts) -> None:
    page.section(
        "Languages and personal data",
        f"Of a sample of {plural(texts.turns_checked, 'user turn')}. Short or mixed turns are unsure.",
    )
    if texts.languages:
        page.table(["language", "share"], [(one.code, one.share) for one in texts.languages], "Languages")
    else:
        page.paragraph(f"Shares of languages: not known. {LEAST_CLUSTERS} conversations are needed.")
    if not texts.personal:
        page.paragraph("Nothing in the sample looks like an e-mail address, telephone, card, bank or address number.")
        return
    rows = [(one.kind, one.share, " | ".join(one.examples)) for one in texts.personal]
    page.table(["looks like", "share of turns", "masked"], rows, "What looks like personal data; found by pattern")


def _circles(page: Report, items: ItemReport) -> None:
    page.section("Circles", "Do preferences between snapshots go round (a over b, b over c, c over a)?")
    if items.cycles is None:
        page.paragraph(f"Not known. {items.cycles_unknown}")
        return
    found = items.cycles
    page.paragraph(
        f"{found.cyclic} of {plural(found.triads, 'triad')} of snapshots go round; snapshots that can be ranked on one "
        f"line show {format_interval(found.by_chance)} by chance, and as many as here with chance {found.chance:.2g}."
    )


def _scores(page: Report, scores: ScoreReport) -> None:
    page.section(
        f"Scores by {scores.name}",
        "Scores of both replies, tranche by tranche (Figure 15 of the paper). The PM was trained on some of these "
        "comparisons; only the accuracy on held-out conversations is fair.",
    )
    middles = [(low + high) / 2 for low, high in zip(scores.edges, scores.edges[1:], strict=False)]
    page.plot(
        line_plot(
            [
                Series(f"{part.name} (n {format_number(part.quantiles.n)})", middles, list(part.bins))
                for part in scores.tranches
            ],
            title=f"Scores by {scores.name}",
            x_label="raw score",
            y_label="share of the tranche's replies",
        ),
        f"Upper tail: above {scores.tail_from:.3g}, which 95% of the replies of {scores.tail_of} do not reach.",
    )
    rows: list[list[Cell]] = [
        [part.name, part.mean.interval, part.tail.interval, part.accuracy.interval, part.held_out.interval]
        for part in scores.tranches
    ]
    page.table(["tranche", "mean score", "in the upper tail", "accuracy, all", "accuracy, held out"], rows)
    number_or_reason(page, "Judgments by people with which this PM agrees", scores.agreement)
    if scores.gaps:
        page.table(
            ["scores differ by", "agreement with judgments"],
            [(f"{gap.low:.3g} to {gap.high:.3g}", gap.agreement) for gap in scores.gaps],
            "The larger the gap, the more a PM should agree; where it does not, read those pairs",
        )
