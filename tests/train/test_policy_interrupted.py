"""A policy run that is killed again and again, or shared by two processes, is the run that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_train_policy import _one_thread as _one_thread  # a fork of a process with several threads may hang
from test_train_policy import lasting, models, quiet, settings, train
from test_train_policy import rollout as rollout

from prefloop.models.checkpoint import latest_checkpoint
from prefloop.models.language import load_language_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.value import ValueModel
from prefloop.runs import RunFolder
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.ppo_update import Learner, TrainingBatch, plan_minibatches
from prefloop.train.processes import Processes
from prefloop.train.rollout import Budget, Rollout

__all__ = ["models"]

FORK = multiprocessing.get_context("fork")  # a child begins at once, torch already loaded
KILLS = 10


def _child(run: PolicyRun, parent: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    train(run, parent, resume=resume)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bits(models: Path, tmp_path: Path) -> None:
    run = settings(
        models, episodes=960, snapshots=4, checkpoint_every_batches=2, kl_target=0.5, kl_horizon_episodes=100
    )
    began = time.monotonic()
    whole, folder = train(run, tmp_path / "whole")
    seconds = time.monotonic() - began
    chance = random.Random(7)
    broken = RunFolder(tmp_path / "broken" / folder.path.name)
    kills, rows = 0, []
    while kills < KILLS:
        resume = (broken.path / "config.json").is_file()
        child = FORK.Process(target=_child, args=(run, tmp_path / "broken", resume))
        child.start()
        child.join(chance.uniform(0.0, 2.5 * seconds / KILLS))
        if child.exitcode is not None:
            assert child.exitcode == 0
            break  # it was fast: what remains of the kills has nothing to hit
        child.kill()
        child.join()
        kills += 1
        rows.append(len(broken.metrics()))
    assert kills >= 5
    assert len(set(rows)) >= 3, rows  # they hit it at different places
    again, resumed = train(run, tmp_path / "broken", resume=(broken.path / "config.json").is_file())
    assert lasting(resumed) == lasting(folder)
    assert again.alarms == whole.alarms
    one, other = latest_checkpoint(folder.checkpoints), latest_checkpoint(resumed.checkpoints)
    assert one is not None
    assert other is not None
    assert one.state["kl_coefficient"] == other.state["kl_coefficient"] != run.kl_coefficient
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


def _gradients(folder: Path, given: Rollout, processes: Processes) -> dict[str, torch.Tensor]:
    """Adam's first moment after one step is a tenth of the gradient."""
    policy, _ = load_language_model(folder / "policy")
    value = ValueModel.from_preference_model(PreferenceModel.load(folder / "pm"))
    learner = Learner(policy, value, clip=0.2, value_clip=None, max_gradient_norm=1e9, processes=processes)
    generator = torch.Generator().manual_seed(0)
    logps, values, advantages, returns = torch.randn(4, *given.is_response.shape, generator=generator)
    batch = TrainingBatch(given.is_response, logps * 0.1 - 5.7, values, advantages, returns)
    plan = plan_minibatches(given, 1, 1, Budget(64, 10_000), 0, torch.device("cpu"), processes.count)
    assert len(plan[0].parts) >= processes.count
    update = learner.update_policy(plan, batch, 1e-3)
    learner.update_value(plan, batch, 1e-3)
    tensors, _ = learner.state()
    gradients = {name: 10 * tensor for name, tensor in tensors.items() if name.endswith("exp_avg")}
    return gradients | {"metrics": torch.tensor([update.loss, update.clip_fraction, update.moved_kl])}


def _in_group(rank: int, meeting: Path, work: Any, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        results.put((rank, work(Processes(rank, 2))))
    finally:
        dist.destroy_process_group()


def in_two_processes(meeting: Path, work: Any) -> list[Any]:
    """What `work` gives in each of two processes that share it."""
    results = FORK.Queue()
    children = [FORK.Process(target=_in_group, args=(rank, meeting, work, results)) for rank in range(2)]
    for child in children:
        child.start()
    found = dict(results.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    return [found[rank] for rank in range(2)]


def test_two_processes_have_the_gradients_of_one(models: Path, rollout: Rollout, tmp_path: Path) -> None:
    alone = _gradients(models, rollout, Processes())

    def work(processes: Processes) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in _gradients(models, rollout, processes).items()}

    first, second = in_two_processes(tmp_path / "meeting", work)
    for name, gradient in alone.items():
        shared = torch.from_numpy(first[name])
        assert (shared - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
        assert torch.equal(shared, torch.from_numpy(second[name])), name


def test_two_processes_train_one_run(models: Path, tmp_path: Path) -> None:
    run = settings(models, episodes=64, episodes_per_batch=16)
    folder = RunFolder.create(tmp_path, "policy", run)

    def work(processes: Processes) -> tuple[list[str], list[float]]:
        from test_train_policy import prompts

        from prefloop.train.policy import train_policy

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Processes, "of_environment", classmethod(lambda cls: processes))
            result = train_policy(run, prompts(24), folder, prompts(48, seed=1), progress=quiet)
        return [snapshot.path for snapshot in result.snapshots], [one.kl.value for one in result.snapshots]

    (paths, kls), (_, other_kls) = in_two_processes(tmp_path / "meeting", work)
    assert kls == other_kls  # both hold the same policy
    assert kls[-1] > kls[0]
    assert all(Path(path).is_dir() for path in paths)
    rows = [row for row in folder.metrics() if "score/train" in row]
    assert [row["episodes"] for row in rows] == [16, 32, 48, 64]  # one process writes
    assert all(row["policy/ratio_first_error"] < 1e-4 for row in rows)
    assert (folder.path / "report.html").is_file()
