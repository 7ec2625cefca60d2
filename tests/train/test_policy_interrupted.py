"""A policy run that is killed again and again, or shared by two processes, is the run that was left alone."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_train_policy import _one_thread as _one_thread  # a fork of a process with several threads may hang
from test_train_policy import lasting, models, prompts, quiet, settings, stopping_after, train
from test_train_policy import rollout as rollout

from prefloop.errors import ConfigError
from prefloop.models import head
from prefloop.models.checkpoint import latest_checkpoint
from prefloop.models.language import load_language_model, save_model
from prefloop.models.output_head import output_head
from prefloop.models.preference import PreferenceModel
from prefloop.models.value import ValueModel
from prefloop.runs import RunFolder
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.ppo_update import Learner, TrainingBatch, plan_minibatches
from prefloop.train.processes import Processes
from prefloop.train.rollout import Budget, Rollout
from prefloop.train.sharding import shard
from prefloop.train.snapshots import PolicySnapshot

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
    rows = []
    for least in sorted(chance.choices(range(50), k=KILLS)):  # of 65 rows: each life ends before the run does
        resume = (broken.path / "config.json").is_file()
        child = FORK.Process(target=_child, args=(run, tmp_path / "broken", resume))
        child.start()
        while child.is_alive() and len(broken.metrics()) < least:
            time.sleep(0.001)
        child.join(chance.uniform(0.0, 2.0 * seconds / 65))  # within a batch, or while it loads
        assert child.exitcode is None  # it is killed, and has not ended by itself
        child.kill()
        child.join()
        rows.append(len(broken.metrics()))
    assert len(set(rows)) >= 5, rows  # they hit it at different places
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


def _gradients(folder: Path, given: Rollout, processes: Processes, is_split: bool) -> dict[str, torch.Tensor]:
    """Adam's first moment after one step is a tenth of the gradient."""
    policy, _ = load_language_model(folder / "policy")
    output_head(policy)  # as where a run loads it: what is split is not looked at any more
    value = ValueModel.from_preference_model(PreferenceModel.load(folder / "pm"))
    if is_split:
        shard(policy.base_model, processes, policy.get_output_embeddings())
        shard(value.trunk, processes)
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
    same, _ = load_language_model(folder / "policy")
    learner.give_policy(same)
    weights = {f"weights.{name}": tensor.clone() for name, tensor in same.state_dict().items()}
    return gradients | weights | {"metrics": torch.tensor([update.loss, update.clip_fraction, update.moved_kl])}


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


@pytest.fixture(scope="module")
def untied(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same models, but the policy's head is not its embedding."""
    folder = tmp_path_factory.mktemp("untied")
    policy, renderer = load_language_model(models / "policy")
    policy.config.tie_word_embeddings = False
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach().flip(0))
    save_model(policy, renderer.tokenizer, folder / "policy")
    shutil.copytree(models / "pm", folder / "pm")
    return folder


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("which", ["models", "untied"])
def test_two_processes_have_the_gradients_of_one(
    which: str, is_split: bool, rollout: Rollout, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(which)
    alone = _gradients(folder, rollout, Processes(), is_split=False)

    def work(processes: Processes) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in _gradients(folder, rollout, processes, is_split).items()}

    first, second = in_two_processes(tmp_path / "meeting", work)
    assert first.keys() == alone.keys()
    for name, gradient in alone.items():
        shared = torch.from_numpy(first[name])
        if name.startswith("weights."):  # Adam's first step is as long for a gradient of rounding as for any other
            assert (shared - gradient).abs().max() <= 2.1e-3
            continue
        assert (shared - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
        assert torch.equal(shared, torch.from_numpy(second[name])), name


def test_a_split_head_runs_in_chunks(
    untied: Path, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _gradients(untied, rollout, Processes(), is_split=False)
    most, rows, of_places = 3, list[int](), head.token_logps

    def counted(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        rows.append(len(logits))
        return of_places(logits, ids)

    monkeypatch.setattr(head, "token_logps", counted)
    monkeypatch.setattr(head, "_LEAST_TOKENS", most)
    monkeypatch.setattr(head, "_LOGITS", 1)

    def work(processes: Processes) -> tuple[dict[str, Any], list[int]]:
        return {k: v.numpy() for k, v in _gradients(untied, rollout, processes, is_split=True).items()}, rows

    (first, its_rows), (second, others_rows) = in_two_processes(tmp_path / "meeting", work)
    assert max(its_rows) == max(others_rows) == most
    assert sum(its_rows) != sum(others_rows)  # the processes have other numbers of places
    for name, gradient in alone.items():
        if not name.startswith("weights."):
            shared = torch.from_numpy(first[name])
            assert (shared - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
            assert torch.equal(shared, torch.from_numpy(second[name])), name


def _train_shared(run: PolicyRun, folder: RunFolder, processes: Processes, **more: Any) -> list[PolicySnapshot]:
    """Trains as one of torchrun's processes would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "of_environment", classmethod(lambda cls: processes))
        arguments = {"progress": quiet} | more
        return list(train_policy(run, prompts(24), folder, prompts(48, seed=1), **arguments).snapshots)


@pytest.mark.parametrize("is_split", [False, True])
def test_two_processes_train_one_run(models: Path, tmp_path: Path, is_split: bool) -> None:
    run = settings(models, episodes=64, episodes_per_batch=16, shard=is_split)
    folder = RunFolder.create(tmp_path, "policy", run)
    first, second = in_two_processes(tmp_path / "meeting", lambda processes: _train_shared(run, folder, processes))
    kls = [snapshot.kl.value for snapshot in first]
    assert kls == [snapshot.kl.value for snapshot in second]  # both hold the same policy
    assert kls[-1] > kls[0]
    rows = [row for row in folder.metrics() if "score/train" in row]
    assert [row["episodes"] for row in rows] == [16, 32, 48, 64]  # one process writes
    assert all(row["policy/ratio_first_error"] < 1e-4 for row in rows)
    assert (folder.path / "report.html").is_file()
    last, _ = load_language_model(Path(first[-1].path))
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    for name, value in checkpoint.part("policy").items():  # what is sampled and saved is what learned, and whole
        assert torch.equal(value, last.state_dict()[name]), name


def test_split_weights_change_no_number_and_resume_to_the_same_bits(models: Path, tmp_path: Path) -> None:
    whole = settings(models, episodes=64, episodes_per_batch=16, checkpoint_every_batches=2)
    split = whole.model_copy(update={"shard": True})
    folders = {name: RunFolder.create(tmp_path / name, "policy", split) for name in ("left alone", "broken")}
    folders["whole"] = RunFolder.create(tmp_path / "whole", "policy", whole)

    def work(processes: Processes) -> list[PolicySnapshot]:
        _train_shared(whole, folders["whole"], processes)
        _train_shared(split, folders["left alone"], processes)
        with pytest.raises(KeyboardInterrupt):
            _train_shared(split, folders["broken"], processes, progress=stopping_after(3))
        return _train_shared(split, folders["broken"], processes, resume=True)

    in_two_processes(tmp_path / "meeting", work)
    assert lasting(folders["broken"]) == lasting(folders["left alone"])
    names = ("policy/loss", "policy/gradient_norm", "value/loss", "value/gradient_norm", "kl/k1", "score/train")
    rows, others = ([row for row in folders[name].metrics() if "kl/k1" in row] for name in ("left alone", "whole"))
    assert len(rows) == 4
    for row, other in zip(rows, others, strict=True):
        assert [row[name] for name in names] == pytest.approx([other[name] for name in names], rel=1e-3, abs=1e-5)


def test_processes_that_cannot_share_a_run_are_told_why(models: Path, tmp_path: Path) -> None:
    for more, count, words in (
        ({"shard": True}, 1, "needs several processes"),
        ({"shard": True, "lora_rank": 2}, 2, "goes without lora_rank"),
        ({"episodes_per_batch": 4, "samples_per_prompt": 4}, 2, "batch of 1 prompts, which 2 processes cannot share"),
    ):
        run = settings(models, **more)
        with pytest.raises(ConfigError, match=words):
            _train_shared(run, RunFolder.create(tmp_path, "policy", run), Processes(0, count))
