"""The progress bar of a policy run is there from the evaluation of its start on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_train_policy import models, quiet, settings, train

from prefloop.train import policy

__all__ = ["models"]


def test_the_start_is_evaluated_under_the_bar(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    evaluate = policy.evaluate_snapshot

    def watched(*arguments: Any) -> Any:
        seen.append("evaluation")
        return evaluate(*arguments)

    def progress(steps: Any, **more: Any) -> Any:
        seen.append((len(steps), more["initial"], more["total"]))
        bar = quiet(steps)
        bar.set_postfix = lambda **words: seen.append(tuple(words))
        return bar

    monkeypatch.setattr(policy, "evaluate_snapshot", watched)
    run = settings(models, episodes=32, snapshots=1)
    _, folder = train(run, tmp_path, progress=progress)
    batch = ("score", "kl")
    assert seen == [(2, 0, 2), ("evaluating",), "evaluation", batch, batch, "evaluation"]
    seen.clear()
    train(run, tmp_path, progress=progress, resume=True)  # it has ended, and its start is not evaluated again
    assert seen == [(0, 2, 2)]
    assert folder.metrics()
