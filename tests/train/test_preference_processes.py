"""A preference model trained by two processes is that of one, its weights split or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_interrupted import in_two_processes
from test_train_preference import make_pairs, quiet, settings_for
from test_train_preference import start as start

from prefloop.errors import ConfigError
from prefloop.models.checkpoint import latest_checkpoint
from prefloop.models.preference import PreferenceModel
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.preference import start_model, train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.preference_step import backward, encode
from prefloop.train.processes import Processes
from prefloop.train.sharding import shard, whole

NUMBERS = ("preference/loss", "preference/gradient_norm", "preference/score_mean", "preference/accuracy")


def trained(run: PreferenceRun, folder: RunFolder, processes: Processes, resume: bool = False) -> list[float]:
    """Trains as torchrun's process would; scores of a few pairs by the result."""
    pairs = make_pairs(20, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "of_environment", classmethod(lambda cls: processes))
        result = train_preference(run, pairs, folder, pairs[:6], resume=resume, progress=quiet)
    return result.model.score([[*pair.context, Message(role="assistant", text=pair.chosen)] for pair in pairs[:4]])


@pytest.mark.parametrize("is_split", [False, True])
def test_two_processes_have_the_gradients_of_one(start: Path, tmp_path: Path, is_split: bool) -> None:
    def gradients(processes: Processes) -> dict[str, Any]:
        model = start_model(settings_for(start))
        lessons = encode(model, make_pairs(3, seed=3)[:5], {"pairs": 0, "dropped_long_pairs": 0, "dropped_turns": 0})
        if is_split and processes.count > 1:
            shard(model.trunk, processes)
        losses = backward(model, lessons, output=None, dtype=None, tokens_per_forward=60, processes=processes)
        processes.sum_gradients(model.model.parameters())
        found = {name: whole(one.grad).numpy() for name, one in model.model.named_parameters() if one.grad is not None}
        return found | {"losses": losses.loss, "scores": losses.chosen.numpy()}

    alone = gradients(Processes())
    for other in in_two_processes(tmp_path / "meeting", gradients):
        assert other.keys() == alone.keys()
        for name, gradient in alone.items():
            expected, found = torch.as_tensor(gradient), torch.as_tensor(other[name])
            assert (found - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("is_split", [False, True])
def test_two_processes_train_as_one_and_their_checkpoints_are_anybody_s(
    start: Path, tmp_path: Path, is_split: bool
) -> None:
    run = settings_for(start, checkpoint_every_steps=2, shard=is_split, tokens_per_forward=200)
    single = run.model_copy(update={"shard": False})
    folder = RunFolder.create(tmp_path / "one", "preference", single)
    expected = trained(single, folder, Processes())
    shared = RunFolder.create(tmp_path / "two", "preference", run)
    first, second = in_two_processes(tmp_path / "meeting", lambda processes: trained(run, shared, processes))
    assert first == pytest.approx(expected, rel=1e-3, abs=1e-4)  # Adam doubles rounding where a gradient is near 0
    assert second == first
    for row, other in zip(folder.metrics(), shared.metrics(), strict=True):
        for name in NUMBERS:
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), (row["step"], name)
    assert PreferenceModel.load(shared.path / "model").head.weight.shape == (1, 32)

    checkpoint = latest_checkpoint(shared.checkpoints)
    assert checkpoint is not None
    assert checkpoint.step == 5
    plain = latest_checkpoint(folder.checkpoints)
    assert plain is not None
    assert {name: value.shape for name, value in checkpoint.tensors.items()} == {
        name: value.shape for name, value in plain.tensors.items()
    }
    last = sorted(shared.checkpoints.iterdir())[-1]
    last.rename(shared.path / "away")  # the step before it, split over two, goes on in one
    on = trained(single, shared, Processes(), resume=True)
    assert on == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_split_model_needs_company(start: Path, tmp_path: Path) -> None:
    run = settings_for(start, shard=True)
    with pytest.raises(ConfigError, match="needs several processes"):
        trained(run, RunFolder.create(tmp_path, "preference", run), Processes())
