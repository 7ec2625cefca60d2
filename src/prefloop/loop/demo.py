"""The demo: one round in a workspace of its own on the embedded defaults, its table, and the page afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError
from prefloop.loop.round import create_workspace, start_round
from prefloop.loop.serving import invitation, open_study, serve
from prefloop.loop.settings import RoundSettings
from prefloop.report import format_interval, format_number
from prefloop.schema import Interval, Round
from prefloop.store import Store
from prefloop.web import researcher_link
from prefloop.workspace import Workspace

Tell = Callable[[str], None]


def demo_workspace(folder: Path | None, seed: int) -> Workspace:
    """A workspace with a round begun: the interrupted one of this seed, or a new one.

    Errors:
        ConfigError: `folder` holds a round that is finished, or one with another seed.
    """
    if folder is not None:
        return _begun(folder, seed) or _new(folder, seed)
    number = 1
    while True:
        candidate = Path(f"prefloop-demo-{seed}" + (f"-{number}" if number > 1 else ""))
        if not candidate.exists():
            return _new(candidate, seed)
        try:
            begun = _begun(candidate, seed)
        except ConfigError:
            begun = None
        if begun is not None:
            return begun
        number += 1


def _begun(folder: Path, seed: int) -> Workspace | None:
    """The workspace there if its round can go on; None where there is no workspace yet."""
    if not (folder / "prefloop.toml").is_file():
        return None
    workspace = Workspace(folder)
    with workspace.store() as store:
        current = store.round()
        if current is None:
            start_round(store, RoundSettings(seed=seed))
            return workspace
        if current.state != "running" or current.facts["settings"]["seed"] != seed:
            raise ConfigError(f"{folder} holds a finished round or one of another seed; choose another --workspace.")
    return workspace


def _new(folder: Path, seed: int) -> Workspace:
    workspace, _ = create_workspace(folder)
    with workspace.store() as store:
        start_round(store, RoundSettings(seed=seed))
    return workspace


def summary(workspace: Workspace, finished: Round, seconds: float) -> dict[str, Any]:
    """The demo's result as one JSON object. Intervals are [low, high] at 95%."""
    facts = finished.facts
    pm, policy = facts["pm"], facts["policy"]
    return {
        "seed": facts["settings"]["seed"],
        "pm": {
            "accuracy": pm["accuracy_a"]["value"],
            "ci95": _ends(pm["accuracy_a"]),
            "best_possible": pm["best_possible"]["value"],
            "way": pm["way_a"]["value"],
            "accuracy_held_out_pm": pm["accuracy_b"]["value"],
            "accuracy_pmp": pm["accuracy_pmp"]["value"],
            "ci95_pmp": _ends(pm["accuracy_pmp"]),
            "way_pmp": pm["way_pmp"]["value"],
            "length_only": pm["length_only"]["value"],
            "bag_of_words_way": pm["bag_of_words_way"],
            "pairs": pm["pairs"],
            "trained_on": facts["pm_a_pairs"],
        },
        "policy": {
            "gold_win_rate": policy["gold_win_rate"]["value"],
            "ci95": _ends(policy["gold_win_rate"]),
            "prompts": policy["prompts"],
            "episodes": facts["policy_best_episodes"],
            "right_content_before": policy["right_content_before"],
            "right_content_after": policy["right_content_after"],
        },
        "elo": {
            name: {"value": rating["value"], "ci95": _ends(rating), "comparisons": rating["n"]}
            for name, rating in facts["elo"].items()
        },
        "seconds": round(seconds, 1),
        "seconds_by_step": facts["seconds"],
        "workspace": str(workspace.path),
        "report": str(workspace.path / facts["report"]),
    }


def table(result: dict[str, Any]) -> str:
    """The same for people."""
    pm, policy = result["pm"], result["policy"]
    rows = [
        ("preference model, held-out pairs", _with_interval(pm["accuracy"], pm["ci95"], pm["pairs"])),
        ("  best possible", f"{pm['best_possible']:.3f}, of which {pm['way']:.0%} of the way is reached"),
        ("  pre-training (PMP) alone", f"{pm['accuracy_pmp']:.3f} ({pm['way_pmp']:.0%} of the way)"),
        ("policy, gold win rate over base", _with_interval(policy["gold_win_rate"], policy["ci95"], policy["prompts"])),
        (
            "  right on what was asked for",
            f"{policy['right_content_before']:.0%} before, {policy['right_content_after']:.0%} after",
        ),
    ]
    rows += [
        (f"Elo of {name}", _with_interval(rating["value"], rating["ci95"], rating["comparisons"]))
        for name, rating in result["elo"].items()
    ]
    rows += [("seconds", format_number(result["seconds"])), ("report", result["report"])]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def serve_demo(workspace: Workspace, store: Store, tell: Tell) -> None:
    """Serves both snapshots to people: a new study to join."""
    study = open_study(store, "join")

    def ready(url: str) -> None:
        tell(f"\nJoin the loop:   {invitation(store, url, study)}")
        tell(f"Watch it (once): {researcher_link(store, url)}")
        tell("The tiny assistant knows only its tiny world; ask it things like: How do I cook soup?")
        tell("Stop with Ctrl-C; later: prefloop serve --workspace " + str(workspace.path))

    settings = workspace.settings.serve
    serve(workspace, store, host=settings.host, port=settings.port, on_ready=ready)


def _ends(interval: dict[str, Any]) -> list[float]:
    return [interval["low"], interval["high"]]


def _with_interval(value: float, ends: list[float], n: int) -> str:
    shown = format_interval(Interval(value=value, low=ends[0], high=ends[1], n=n))
    return f"{shown}  n = {n}"
