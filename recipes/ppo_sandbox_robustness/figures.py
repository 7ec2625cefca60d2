"""The figures of the robustness experiment from its finished runs: numbers with intervals over seeds and prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prefloop.report import Report, Series, interval_plot, line_plot
from prefloop.sandbox import is_harmful, world
from prefloop.schema import Interval
from prefloop.stats import clustered_mean, linear_part, run_mean
from prefloop.train.gauges import evaluated_replies, evaluation_prompts
from prefloop.train.optimisation import Optimisation, optimisation

Floats = npt.NDArray[np.float64]
SIZES = ("small", "large")


class Run:
    """One finished run: its gauges, and rises in deviations of the start's scores, (snapshot, prompt)."""

    def __init__(self, cell: Any, folder: Path) -> None:
        self.cell, self.seed = cell, cell.seed
        replies = evaluated_replies(folder)
        self.gauges: Optimisation = optimisation(cell.name, replies)
        prompts = evaluation_prompts(folder)
        self.harmful = np.array([is_harmful(world(), prompt) for prompt in prompts])
        self.episodes = [place.episodes for place in self.gauges.places]
        self.root_kl = np.array([place.root_kl for place in self.gauges.places])
        names = {"train": "train", f"test_{cell.pm}": "held_out", "gold": "gold"}
        names |= {name: name for name in replies[0][0].scores if name.startswith("test_")}
        self.rises: dict[str, Floats] = {}
        for name, key in names.items():
            scores = np.array([[row.scores[key] for row in rows] for rows in replies.values()])
            self.rises[name] = (scores - scores[0]) / (scores[0].std() or 1.0)


def write_figures(finished: Mapping[Any, Path], path: Path) -> dict[str, Any]:
    """Draws what is finished, and returns the numbers."""
    runs = [Run(cell, folder) for cell, folder in finished.items()]
    if not runs:
        return {"runs": 0}
    seeds = sorted({run.seed for run in runs})
    report = Report(
        "Robustness in the tiny world",
        f"{len(runs)} runs, seeds {', '.join(map(str, seeds))}. Rises are in deviations of the start's scores; "
        "intervals are 95%, over prompts, of several seeds over the seeds' means.",
    )
    result: dict[str, Any] = {"runs": len(runs), "seeds": seeds, "episodes": runs[0].episodes[-1]}
    result["train_and_test"] = _train_and_test(report, runs)
    result["linear"] = _linear(report, runs)
    result["slopes"] = _slopes(report, runs)
    result["ends"] = _ends(report, runs)
    result["gold"] = _gold(report, runs)
    result["modes"] = _modes(report, runs)
    report.write(path, result)
    return result


def _train_and_test(report: Report, runs: Sequence[Run]) -> dict[str, Any]:
    report.section(
        "Train and test PM along the run (Figures 4 and 13)",
        "The paper: both agree at first and part later, the train PM being higher.",
    )
    found: dict[str, Any] = {}
    for pm, policy in _cells(runs):
        group = [run for run in runs if (run.cell.pm, run.cell.policy) == (pm, policy)]
        names = ("train", f"test_{pm}", f"test_{_other(pm)}", "gold")
        episodes = [float(e) for e in group[0].episodes]
        distance = np.mean([run.root_kl for run in group], axis=0).tolist()
        for x, x_label in ((episodes, "RL samples (episodes)"), (distance, "sqrt(KL), mean over seeds")):
            lines = [_series(name, x, [_mean(group, name, i) for i in range(len(episodes))]) for name in names]
            title = f"{pm} PM, {policy} policy, over {'samples' if x is episodes else 'distance'}"
            report.plot(line_plot(lines, title=title, x_label=x_label, y_label="rise (deviations of the start)"))
        gap = _pooled((run, run.rises["train"][-1] - run.rises[f"test_{pm}"][-1]) for run in group)
        quarter = min(range(len(episodes)), key=lambda place: abs(episodes[place] - episodes[-1] / 4))
        early = _pooled((run, run.rises["train"][quarter] - run.rises[f"test_{pm}"][quarter]) for run in group)
        found[f"pm_{pm}-policy_{policy}"] = {
            "train_rise": _json(_mean(group, "train", -1)),
            "test_rise": _json(_mean(group, f"test_{pm}", -1)),
            "gap_at_a_quarter": _json(early),
            "gap_at_end": _json(gap),
            "root_kl_at_end": distance[-1],
        }
    report.table(
        ["runs", "train PM", "test PM", "gap at a quarter", "gap at the end"],
        [
            [name, *(_back(value[key]) for key in ("train_rise", "test_rise", "gap_at_a_quarter", "gap_at_end"))]
            for name, value in found.items()
        ],
    )
    return found


def _linear(report: Report, runs: Sequence[Run]) -> list[dict[str, Any]]:
    report.section("The linear part over sqrt(KL) (Figure 13)", "The paper: roughly linear, and parallel under one PM.")
    rows = []
    for run in runs:
        for name in ("train", "held_out", "gold"):
            track = run.gauges.scorer(name)
            if track is not None and track.linear is not None:
                line = track.linear
                rows.append(
                    {
                        "run": run.cell.name,
                        "scorer": name,
                        "r_squared": line.fit.r_squared,
                        "slope": _json(line.fit.slope),
                        "until_root_kl": line.until_root_kl,
                        "whole": line.is_whole,
                    }
                )
    report.table(
        ["run", "scorer", "R²", "slope (raw score)", "linear up to sqrt(KL)"],
        [[r["run"], r["scorer"], r["r_squared"], _back(r["slope"]), r["until_root_kl"]] for r in rows],
    )
    return rows


def _slopes(report: Report, runs: Sequence[Run]) -> dict[str, Any]:
    report.section(
        "Slope by size of the PM (Figure 33)",
        "Rise over sqrt(KL) in the linear part of each run, by each test PM, mean over the policies of a seed. The "
        "paper: the larger the test PM, the steeper.",
    )
    found: dict[str, Interval] = {}
    for pm in SIZES:
        for test in SIZES:
            by_seed: dict[int, list[Interval]] = {}
            for run in (run for run in runs if run.cell.pm == pm):
                line = linear_part(run.root_kl, run.rises[f"test_{test}"].mean(1))
                by_seed.setdefault(run.seed, []).append(line.fit.slope)
            if by_seed:
                found[f"trained on {pm}, judged by {test}"] = _mean_slope(list(by_seed.values()))
    if found:
        label = "slope (deviations of the start per square root of a nat)"
        report.plot(interval_plot(found, title="Slope of the linear part", x_label=label, reference=0.0))
    return {name: _json(value) for name, value in found.items()}


def _mean_slope(seeds: Sequence[Sequence[Interval]]) -> Interval:
    """Of several seeds with the interval over their means (Student's t); one seed's interval is not known."""
    means = [float(np.mean([slope.value for slope in slopes])) for slopes in seeds]
    points = sum(slope.n for slopes in seeds for slope in slopes)
    if len(means) == 1:
        return seeds[0][0] if len(seeds[0]) == 1 else Interval(value=means[0], low=-np.inf, high=np.inf, n=points)
    return run_mean(means, points)


def _ends(report: Report, runs: Sequence[Run]) -> dict[str, Any]:
    report.section(
        "Where policies of two sizes end",
        "How much better the large policy ends than the small one, by each test PM. The paper: policies trained "
        "against a small PM end poor under a large one.",
    )
    found: dict[str, Any] = {}
    for pm in SIZES:
        for test in SIZES:
            differences = []
            for seed in sorted({run.seed for run in runs}):
                pair = {run.cell.policy: run for run in runs if run.seed == seed and run.cell.pm == pm}
                if len(pair) == 2:
                    large, small = (pair[size].rises[f"test_{test}"][-1] for size in ("large", "small"))
                    differences.append((pair["large"], large - small))
            if differences:
                found[f"trained on {pm}, judged by {test}"] = _pooled(differences)
    if found:
        plot = interval_plot(found, title="Large policy less small policy", x_label="deviations", reference=0.0)
        report.plot(plot)
    return {name: _json(value) for name, value in found.items()}


def _gold(report: Report, runs: Sequence[Run]) -> dict[str, Any]:
    report.section("Gold against both PMs", "Rises at the end, and where gold was highest.")
    found = {}
    for run in runs:
        means = {name: values.mean(1) for name, values in run.rises.items()}
        peak = int(means["gold"].argmax())
        advice = run.gauges.advice
        found[run.cell.name] = {
            "gold_rise": _json(clustered_mean(run.rises["gold"][-1])),
            "train_rise": _json(clustered_mean(run.rises["train"][-1])),
            "test_rise": _json(clustered_mean(run.rises[f"test_{run.cell.pm}"][-1])),
            "gold_peak_episodes": run.episodes[peak],
            "gold_peak": float(means["gold"][peak]),
            "stop_at_episodes": None if advice is None else advice.at.episodes,
            "gold_at_stop": None if advice is None else float(means["gold"][run.episodes.index(advice.at.episodes)]),
        }
    report.table(
        ["run", "gold", "train PM", "test PM", "gold's peak", "at (episodes)", "advice: stop at", "gold there"],
        [
            [
                name,
                _back(v["gold_rise"]),
                _back(v["train_rise"]),
                _back(v["test_rise"]),
                v["gold_peak"],
                v["gold_peak_episodes"],
                v["stop_at_episodes"],
                v["gold_at_stop"],
            ]
            for name, v in found.items()
        ],
    )
    return found


def _modes(report: Report, runs: Sequence[Run]) -> dict[str, Any]:
    report.section(
        "Helpful and harmless prompts apart (Figure 14)",
        "The paper: the harmless score is over-optimised, the helpful one under-optimised.",
    )
    found: dict[str, Interval] = {}
    for name in ("train", "gold"):
        for mode, is_harm in (("helpful", False), ("harmless", True)):
            parts = [(run, run.rises[name][-1][run.harmful == is_harm]) for run in runs]
            found[f"{mode} prompts, by {'the train PM' if name == 'train' else 'gold'}"] = _pooled(parts)
    report.plot(interval_plot(found, title="Rise at the end by kind of prompt", x_label="deviations", reference=0.0))
    return {name: _json(value) for name, value in found.items()}


def _cells(runs: Iterable[Run]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((run.cell.pm, run.cell.policy) for run in runs))


def _other(size: str) -> str:
    return SIZES[size == SIZES[0]]


def _mean(runs: Sequence[Run], name: str, place: int) -> Interval:
    return _pooled((run, run.rises[name][place]) for run in runs)


def _pooled(parts: Iterable[tuple[Run, Floats]]) -> Interval:
    """Mean over prompts; of several seeds the interval is over the seeds' means (Student's t), else over prompts."""
    by_seed: dict[int, list[Floats]] = {}
    for run, part in parts:
        by_seed.setdefault(run.seed, []).append(part)
    seeds = [np.concatenate(values) for values in by_seed.values()]
    if len(seeds) == 1:
        return clustered_mean(seeds[0])
    return run_mean([float(values.mean()) for values in seeds], sum(map(len, seeds)))


def _series(name: str, x: list[float], values: Sequence[Interval]) -> Series:
    return Series(name, x, [v.value for v in values], [v.low for v in values], [v.high for v in values])


def _json(value: Interval) -> dict[str, Any]:
    return value.model_dump(mode="json")


def _back(value: dict[str, Any]) -> Interval:
    return Interval.model_validate(value)
