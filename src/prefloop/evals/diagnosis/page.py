"""The page of a diagnosis. Draws what was found; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefloop.evals.diagnosis.nouns import Diagnosis, Evidence
from prefloop.report import Cell, Report, Tile, interval_plot
from prefloop.schema import Interval


def write_diagnosis(diagnosis: Diagnosis, path: Path) -> Path:
    """Writes the page, and the diagnosis as JSON beside it; returns the page's path."""
    e = diagnosis.evidence
    report = Report(
        f"Diagnosis of {diagnosis.run}: is it the PM or the policy?",
        f"{diagnosis.answer} Scores are in deviations of each PM's scores on the start's replies; intervals are 95%, "
        "over prompts.",
    )
    report.tiles(
        [
            Tile(
                "named cause", (diagnosis.cause or "none").replace("_", " "), tone="bad" if diagnosis.cause else "good"
            ),
            Tile("PM's rise", e.rise, f"after {e.episodes:,} episodes"),
            Tile("best of 16 of the start", e.best_of_16, "by the same PM"),
            Tile("KL to the start", e.kl, "nats per reply"),
        ]
    )
    for place, finding in enumerate(diagnosis.findings):
        title = finding.cause.replace("_", " ")
        report.section(f"Cause: {title}" if place == 0 else f"Also seen, perhaps its consequence: {title}")
        report.paragraph(f"{finding.side}: {finding.sentence}", "warning")
        report.bullets(finding.evidence)
        report.paragraph("What to do next:")
        report.bullets(finding.next)
    if diagnosis.healthy:
        report.section("In order").bullets(
            [f"Nothing speaks against it: {sentence}." for sentence in diagnosis.healthy]
        )
    _add_plots(report, e)
    report.section("Everything that was measured").table(["what", "value"], _rows(e))
    if e.unknown:
        report.section("Not known").bullets([f"{what}: {why}" for what, why in e.unknown.items()])
    return report.write(path, diagnosis.model_dump(mode="json"))


def _add_plots(report: Report, e: Evidence) -> None:
    rises: dict[str, Interval] = {}
    if e.rise is not None and e.best_of_16 is not None:
        rises = {"PPO, by its PM": e.rise, "best of 16, by its PM": e.best_of_16}
        rises |= {f"PPO, by {name}": value for name, value in e.held_out_rises.items()}
        rises |= {f"best of 16, by {name}": value for name, value in e.best_of_16_held_out.items()}
        report.section("What PPO gained, and what picking the best of 16 gains")
        report.plot(
            interval_plot(
                rises, title="Rise over the start", x_label="deviations of the start's scores", reference=0.0
            ),
            "Where picking gains and PPO does not, the policy is at fault; where the PM's gain is not shared by the "
            "others, the PM is.",
        )
    chances = {f"orders pairs as {name}": value for name, value in e.agreement.items()}
    for name, known in (
        ("its training pairs, before learning them", e.learned),
        ("its training pairs, now", e.reread),
        ("people's judgments of these answers", e.judged),
        ("the known preference", e.gold),
    ):
        if known is not None:
            chances[name] = known
    if chances:
        report.section("How often the PM agrees").plot(
            interval_plot(
                chances, title="Agreement of the PM", x_label="share of pairs", reference=0.5, reference_label="chance"
            )
        )


def _rows(e: Evidence) -> list[list[Cell]]:
    """A row for each number of the evidence; pairs are start and end."""
    rows: list[list[Cell]] = []
    for name in Evidence.model_fields:
        value, words = getattr(e, name), name.replace("_", " ")
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Interval):
            rows += [[f"{words}, start", value[0]], [f"{words}, end", value[1]]]
        elif isinstance(value, Mapping) and name != "unknown":
            rows += [[f"{words}, {key}", part] for key, part in value.items()]
        elif isinstance(value, (Interval, float, int)) and not isinstance(value, bool):
            rows.append([words, value])
    return rows
