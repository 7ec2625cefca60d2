"""A dry run counts the real run's batches, measures real ones, leaves nothing, and says how to make a run fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_train_policy import models, prompts, settings, train

from prefloop.errors import ModelError
from prefloop.train.policy_estimate import estimate_policy, ways_to_fit

__all__ = ["models"]


def test_an_estimate_of_a_run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = settings(models, episodes=1000, episodes_per_batch=16, epochs=3, minibatches=2)
    estimate = estimate_policy(run, prompts(24), prompts(12, seed=1))
    assert estimate.batches == 63  # 1000 / 16 = 62.5
    assert estimate.optimiser_steps == 63 * 3 * 2
    assert estimate.evaluations == 3  # the start and two snapshots
    assert estimate.seconds_per_evaluation > 0
    assert estimate.seconds == pytest.approx(63 * estimate.seconds_per_batch + 3 * estimate.seconds_per_evaluation)
    assert estimate.episodes_per_second == pytest.approx(16 / estimate.seconds_per_batch)
    assert 0 < estimate.peak_memory_bytes < estimate.memory_bytes
    assert estimate.fits
    assert estimate.advice == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("samples_per_prompt", "steps"), [(2, 4), (4, 4), (8, 2), (16, 1)])  # of 16 episodes
def test_optimiser_steps_are_those_of_the_run(
    models: Path, tmp_path: Path, samples_per_prompt: int, steps: int
) -> None:
    """Samples of one prompt stay together, so a batch has no more minibatches than prompts."""
    run = settings(models, episodes=16, minibatches=4, epochs=3, snapshots=1, samples_per_prompt=samples_per_prompt)
    assert estimate_policy(run, prompts(24), prompts(12, seed=1)).optimiser_steps == 3 * steps
    _, folder = train(run, tmp_path)
    assert folder.metrics()[-1]["step"] == 3 * steps


def test_models_that_watch_are_part_of_it(models: Path, tmp_path: Path) -> None:
    run = settings(models, watching_preference_models={"gone": tmp_path / "gone"})
    with pytest.raises(ModelError, match="gone"):
        estimate_policy(run, prompts(24), prompts(12, seed=1))


def test_what_to_change_when_it_does_not_fit(models: Path) -> None:
    run = settings(models, tokens_per_forward=2048, workers=2, episodes_per_batch=128)
    ways = ways_to_fit(run)
    assert [way.split(" (")[0].split(",")[0] for way in ways] == [
        "lower tokens_per_forward",
        "set workers = 1",
        "lower episodes_per_batch",
        "take a smaller held-out preference model",
        "take a smaller policy or a machine with more memory",
    ]
    small = settings(models, tokens_per_forward=256, workers=1, episodes_per_batch=16)
    assert ways_to_fit(small)[-1] == "take a smaller policy or a machine with more memory"
    assert len(ways_to_fit(small)) == 2
