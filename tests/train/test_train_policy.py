"""The PPO loop on tiny real models: it learns, logs, resumes exactly, and names what is wrong."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import ConfigError, DataError, ModelError, TrainingError
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt
from prefloop.models.value import ValueModel
from prefloop.runs import RunFolder
from prefloop.schema import Message, Sample
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.policy_setup import load_models
from prefloop.train.ppo_update import Learner, TrainingBatch, plan_minibatches
from prefloop.train.preference import start_model
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.rollout import Budget, Rollout

WORDS = ["mend", "the", "blue", "cup", "how", "does", "river", "sing", "ask", "kind", "tree", "for", "bread"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `policy`, `pm` and `held_out`, with random weights and one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 50, 300)
    model = new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0)
    save_model(model, tokenizer, folder / "policy")
    for name, seed in (("pm", 1), ("held_out", 2)):
        PreferenceModel.from_language_model(folder / "policy", seed).save(folder / name)
    return folder


def prompts(count: int, seed: int = 0) -> list[list[Message]]:
    chance = random.Random(seed)
    return [[Message(role="user", text=" ".join(chance.choices(WORDS, k=chance.randint(2, 6))))] for _ in range(count)]


def settings(models: Path, **more: Any) -> PolicyRun:
    small = {
        "episodes": 64,
        "episodes_per_batch": 16,
        "samples_per_prompt": 2,
        "minibatches": 2,
        "max_response_tokens": 6,
        "snapshots": 2,
        "checkpoint_every_batches": 1,
        "row_tokens": 64,
        "workers": 1,
        "device": "cpu",
    }
    return PolicyRun(
        policy=models / "policy",
        preference_model=models / "pm",
        held_out_preference_model=models / "held_out",
        **(small | more),
    )


def quiet(steps: Any, **_: Any) -> Any:
    """A progress bar that shows nothing."""

    class Bar(list[int]):
        def set_postfix(self, **_: Any) -> None: ...

    return Bar(steps)


def stopping_after(batches: int) -> Callable[..., Any]:
    """A progress bar that ends the run, as an interrupt would."""

    class Bar:
        def __init__(self, steps: Any) -> None:
            self.steps = steps

        def __iter__(self) -> Iterator[int]:
            for done, step in enumerate(self.steps):
                if done == batches:
                    raise KeyboardInterrupt
                yield step

        def set_postfix(self, **_: Any) -> None: ...

    return lambda steps, **_: Bar(steps)


def train(run: PolicyRun, parent: Path, **more: Any) -> tuple[Any, RunFolder]:
    folder = RunFolder.create(parent, "policy", run, resume=more.get("resume", False))
    arguments = {"progress": quiet} | more
    return train_policy(run, prompts(24), folder, prompts(48, seed=1), **arguments), folder


def lasting(folder: RunFolder) -> list[str]:
    """The rows of metrics, without what a clock says, as exact text; snapshots' places are left out."""
    return [
        json.dumps({key: value for key, value in row.items() if not key.startswith("time/")})
        for row in folder.metrics()
    ]


def test_a_run_learns_and_leaves_everything_behind(models: Path, tmp_path: Path) -> None:
    run = settings(
        models, episodes=640, episodes_per_batch=64, learning_rate=5e-3, value_learning_rate=5e-3, kl_coefficient=0.0
    )
    result, folder = train(run, tmp_path, gold=lambda context, reply: float(len(context) + len(reply)))

    rows = [row for row in folder.metrics() if "score/train" in row]
    assert [row["episodes"] for row in rows] == [64 * (i + 1) for i in range(10)]
    assert [row["step"] for row in rows] == [4 * (i + 1) for i in range(10)]  # 2 epochs of 2 minibatches
    start, end = result.snapshots[0], result.snapshots[-1]
    assert start.episodes == 0
    assert end.score_train.low > start.score_train.high
    assert end.kl.low > 0
    assert abs(start.kl.value) < 1e-4  # the start is the reference
    assert start.score_gold is not None
    for row in rows:
        assert row["policy/ratio_first_error"] < 1e-4
        assert all(math.isfinite(value) for value in row.values())
    assert rows[0]["value/explained_variance"] < rows[-1]["value/explained_variance"] <= 1

    assert [snapshot.episodes for snapshot in result.snapshots] == [0, 320, 640]
    assert result.best == max(result.snapshots, key=lambda snapshot: snapshot.score_held_out.value)
    trained, _ = load_language_model(Path(end.path))
    base, _ = load_language_model(Path(start.path))
    assert not torch.equal(trained.lm_head.weight, base.lm_head.weight)
    page = Path(result.report).read_text(encoding="utf-8")
    assert page.count("<img") == 2 + 5  # each curve once: scores over two axes, and five of the run's own numbers
    for words in ("Rise of the scores against training", "against distance", "KL to the reference", "held-out PM"):
        assert words in page


def test_an_interrupted_run_resumes_to_the_same_bits(models: Path, tmp_path: Path) -> None:
    run = settings(models, episodes=96, episodes_per_batch=16, checkpoint_every_batches=2, workers=2)
    whole, folder = train(run, tmp_path / "whole")
    for batches in (3, 2):  # a checkpoint stands after 2 batches and after 4
        with pytest.raises(KeyboardInterrupt):
            train(
                run,
                tmp_path / "broken",
                resume=(tmp_path / "broken").exists(),
                progress=stopping_after(batches),
            )
    again, resumed = train(run, tmp_path / "broken", resume=True)
    assert lasting(resumed) == lasting(folder)
    assert [s.model_dump(exclude={"path"}) for s in again.snapshots] == [
        s.model_dump(exclude={"path"}) for s in whole.snapshots
    ]
    names = ("model.safetensors", "config.json", "tokenizer.json")
    for one, other in zip(whole.snapshots[1:], again.snapshots[1:], strict=True):
        for name in names:
            assert (Path(one.path) / name).read_bytes() == (Path(other.path) / name).read_bytes()


@pytest.mark.parametrize("batches", [0, 2])  # before the first checkpoint, and after
def test_a_run_goes_on_with_the_workers_and_threads_that_it_began_with(
    models: Path, tmp_path: Path, batches: int
) -> None:
    run = settings(models, episodes=64, episodes_per_batch=16, workers=0)
    torch.set_num_threads(2)
    _, folder = train(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "broken", progress=stopping_after(batches))
    torch.set_num_threads(1)  # one worker and other samples, were it started now
    _, resumed = train(run, tmp_path / "broken", resume=True)
    assert lasting(resumed) == lasting(folder)
    assert torch.get_num_threads() == 1


CHILD = """
import sys, torch
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("tests_of_policy", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
torch.set_num_threads(1)
run = tests.settings(Path(sys.argv[2]), episodes=int(sys.argv[4]))
tests.train(run, Path(sys.argv[3]))
"""


def test_a_killed_run_resumes_to_the_same_bits(models: Path, tmp_path: Path) -> None:
    run = settings(models, episodes=640)
    _, folder = train(run, tmp_path / "whole")
    victim = RunFolder(tmp_path / "killed" / folder.path.name)
    arguments = [__file__, str(models), str(tmp_path / "killed"), str(run.episodes)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE)
    try:
        while len(victim.metrics()) < 6:
            assert child.poll() is None, child.communicate()[1].decode()
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert 6 <= len(victim.metrics()) < len(folder.metrics())
    _, resumed = train(run, tmp_path / "killed", resume=True)
    assert lasting(resumed) == lasting(folder)


def test_resuming_on_other_prompts_is_refused(models: Path, tmp_path: Path) -> None:
    run = settings(models, episodes=16, snapshots=1)
    _, folder = train(run, tmp_path)
    with pytest.raises(DataError, match="started on other prompts"):
        train_policy(run, prompts(24, seed=9), folder, prompts(48, seed=1), resume=True, progress=quiet)


def test_the_value_model_can_learn_alone_first(models: Path, tmp_path: Path) -> None:
    _, folder = train(settings(models, value_warmup_batches=2), tmp_path)
    rows = [row for row in folder.metrics() if "score/train" in row]
    assert ["policy/loss" in row for row in rows] == [False, False, True, True]
    assert all(abs(row["kl/k1"]) < 1e-4 for row in rows[:3])  # the policy of the third batch is still the reference
    assert rows[3]["kl/k3"] > 1e-6


def test_learning_rates_rise_and_halve(models: Path, tmp_path: Path) -> None:
    run = settings(
        models,
        episodes=96,
        learning_rate=1e-3,
        learning_rate_warmup_episodes=32,
        halve_learning_rate_every_episodes=48,
        snapshots=1,
    )
    _, folder = train(run, tmp_path)
    # batches of 16: half-way and all of the warm-up, one more, then from episode 48 on half
    rates = [row["policy/learning_rate"] for row in folder.metrics() if "policy/learning_rate" in row]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4])


def test_a_pm_with_another_tokenizer_can_train_a_policy(models: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["A quite different text, with 4 commas,,"] * 20, 280)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=128, seed=5)
    save_model(model, tokenizer, tmp_path / "other")
    PreferenceModel.from_language_model(tmp_path / "other", 5).save(tmp_path / "pm")
    run = settings(models, episodes=16, snapshots=1).model_copy(update={"preference_model": tmp_path / "pm"})
    result, folder = train(run, tmp_path)
    assert math.isfinite(result.best.score_train.value)
    assert folder.metrics()[1]["value/loss"] > 0


@pytest.fixture
def rollout(models: Path) -> Rollout:
    """Seven episodes on three prompts with made-up statistics."""
    chance = random.Random(5)
    lists = [[chance.randrange(5, 250) for _ in range(count)] for count in (9, 3, 14)]
    owners = [0, 0, 0, 1, 1, 2, 2]
    distinct = [Prompt((), ids) for ids in lists]
    samples = [Sample([chance.randrange(5, 250) for _ in range(chance.randint(1, 6))], [], "stop") for _ in owners]
    lengths = torch.tensor([len(sample.ids) for sample in samples])
    is_response = torch.arange(int(lengths.max())) < lengths[:, None]
    zeros = torch.zeros(is_response.shape)
    return Rollout(
        [distinct[owner] for owner in owners], samples, is_response, zeros, zeros, zeros, zeros[:, 0], zeros[:, 0]
    )


@pytest.mark.parametrize("budget", [Budget(16, 1), Budget(64, 30), Budget(256, 10_000)])
def test_gradients_do_not_depend_on_packing_or_parts(models: Path, rollout: Rollout, budget: Budget) -> None:
    def gradients(budget: Budget) -> dict[str, torch.Tensor]:
        """Adam's first moment after one step is a tenth of the gradient."""
        policy, _ = load_language_model(models / "policy")
        value = ValueModel.from_preference_model(PreferenceModel.load(models / "pm"))
        learner = Learner(policy, value, clip=0.2, value_clip=None, max_gradient_norm=1e9)
        generator = torch.Generator().manual_seed(0)
        logps, values, advantages, returns = torch.randn(4, *rollout.is_response.shape, generator=generator)
        batch = TrainingBatch(rollout.is_response, logps * 0.1 - 5.7, values, advantages, returns)
        plan = plan_minibatches(rollout, 1, 1, budget, 0, torch.device("cpu"))
        learner.update_policy(plan, batch, 1e-3)
        learner.update_value(plan, batch, 1e-3)
        tensors, _ = learner.state()
        return {name: 10 * tensor for name, tensor in tensors.items() if name.endswith("exp_avg")}

    whole = gradients(Budget(512, 10_000))
    for name, gradient in gradients(budget).items():
        assert (gradient - whole[name]).norm() <= 1e-5 * whole[name].norm() + 1e-7, name


def test_every_epoch_sees_every_episode_once_and_prompts_stay_whole(rollout: Rollout) -> None:
    plan = plan_minibatches(rollout, 3, 2, Budget(64, 20), 7, torch.device("cpu"))
    assert len(plan) == 6
    for epoch in range(3):
        parts = [part.episodes.tolist() for minibatch in plan[2 * epoch : 2 * epoch + 2] for part in minibatch.parts]
        assert sorted(episode for part in parts for episode in part) == list(range(7))
    for minibatch in plan:
        seen = {episode for part in minibatch.parts for episode in part.episodes.tolist()}
        for group in ({0, 1, 2}, {3, 4}, {5, 6}):
            assert group <= seen or not group & seen
        assert minibatch.tokens == sum(len(rollout.samples[episode].ids) for episode in seen)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_weights(models: Path, rollout: Rollout) -> None:
    policy, _ = load_language_model(models / "policy")
    value = ValueModel.from_preference_model(PreferenceModel.load(models / "pm"))
    before = policy.lm_head.weight.clone()
    learner = Learner(policy, value, clip=0.2, value_clip=None, max_gradient_norm=1.0)
    bad = torch.full(rollout.is_response.shape, torch.nan)
    batch = TrainingBatch(rollout.is_response, bad * 0, bad * 0, bad, bad)
    plan = plan_minibatches(rollout, 1, 1, Budget(64, 999), 0, torch.device("cpu"))
    with pytest.raises(TrainingError, match=r"loss of the policy model is nan.*lower learning_rate"):
        learner.update_policy(plan, batch, 1e-3)
    with pytest.raises(TrainingError, match=r"loss of the value model is nan.*lower value_learning_rate"):
        learner.update_value(plan, batch, 1e-3)
    assert torch.equal(policy.lm_head.weight, before)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_bad_settings_are_told_in_one_sentence(models: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"samples_per_prompt": 3}, ConfigError, "no multiple of samples_per_prompt = 3"),
        ({"max_response_tokens": 64}, ConfigError, "leaves no room for a prompt in a window of 64"),
        ({"preference_model": models / "policy"}, ModelError, "with num_labels = 1"),
        ({"policy": tmp_path / "nothing"}, ModelError, "nothing"),
    ]
    for number, (change, kind, words) in enumerate(cases):
        with pytest.raises(kind, match=words):
            train(settings(models).model_copy(update=change), tmp_path / str(number))


def test_a_pm_that_knows_no_difference_is_named(models: Path, tmp_path: Path) -> None:
    flat = PreferenceModel.load(models / "pm")
    with torch.no_grad():
        flat.model.score.weight.zero_()
    flat.save(tmp_path / "flat")
    with pytest.raises(ModelError, match="nothing to learn from it"):
        train(settings(models).model_copy(update={"preference_model": tmp_path / "flat"}), tmp_path)


def test_no_prompts(models: Path, tmp_path: Path) -> None:
    run = settings(models)
    with pytest.raises(DataError, match="0 prompts"):
        train_policy(run, [], RunFolder.create(tmp_path, "policy", run), prompts(3), progress=quiet)


def test_a_policy_of_adapters_learns_shares_its_reference_and_resumes_to_the_same_bits(
    models: Path, tmp_path: Path
) -> None:
    run = settings(
        models,
        episodes=192,
        episodes_per_batch=32,
        checkpoint_every_batches=2,
        lora_rank=4,
        learning_rate=5e-3,
        value_learning_rate=5e-3,
    )
    loaded = load_models(run, torch.device("cpu"))
    places = {tensor.data_ptr() for tensor in loaded.policy.parameters()}
    assert {tensor.data_ptr() for tensor in loaded.reference.parameters()} < places

    result, folder = train(run, tmp_path / "whole")
    rows = [row for row in folder.metrics() if "score/train" in row]
    assert all(row["policy/ratio_first_error"] < 1e-4 for row in rows)
    assert abs(result.snapshots[0].kl.value) < 1e-4
    assert abs(rows[0]["kl/k3"]) < 1e-6 < 1e-4 < rows[-1]["kl/k3"]
    last = Path(result.snapshots[-1].path)
    assert (last / "adapter_model.safetensors").is_file()
    assert not (last / "model.safetensors").exists()

    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "broken", progress=stopping_after(3))
    again, resumed = train(run, tmp_path / "broken", resume=True)
    assert lasting(resumed) == lasting(folder)
    weights = Path(again.snapshots[-1].path) / "adapter_model.safetensors"
    assert weights.read_bytes() == (last / "adapter_model.safetensors").read_bytes()


def test_a_policy_with_an_output_layer_of_its_own_learns_is_saved_and_resumes(models: Path, tmp_path: Path) -> None:
    policy, renderer = load_language_model(models / "policy")
    policy.config.tie_word_embeddings = False
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach().clone() * 1.5)
    start = save_model(policy, renderer.tokenizer, tmp_path / "untied")
    run = settings(models, learning_rate=5e-3).model_copy(update={"policy": start})
    result, folder = train(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "broken", progress=stopping_after(2))
    again, resumed = train(run, tmp_path / "broken", resume=True)
    assert lasting(resumed) == lasting(folder)
    trained = [load_language_model(Path(one.snapshots[-1].path)).model for one in (result, again)]
    assert torch.equal(trained[0].lm_head.weight, trained[1].lm_head.weight)
    assert not torch.equal(trained[0].lm_head.weight, policy.lm_head.weight)
    assert not torch.equal(trained[0].lm_head.weight, trained[0].model.embed_tokens.weight)
    assert all(row["policy/ratio_first_error"] < 1e-4 for row in folder.metrics() if "score/train" in row)


def test_a_policy_or_pm_without_an_end_token_is_named_before_anything_is_done(models: Path, tmp_path: Path) -> None:
    for name in ("policy", "pm"):
        broken = tmp_path / name
        shutil.copytree(models / name, broken)
        file = broken / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": None}), encoding="utf-8")
        field = "policy" if name == "policy" else "preference_model"
        run = settings(models).model_copy(update={field: broken})
        with pytest.raises(ModelError, match="no EOS token"):
            train(run, tmp_path / f"runs_{name}")
    with pytest.raises(ModelError, match="no EOS token"):
        start_model(PreferenceRun(start=tmp_path / "policy"))
