"""A policy run whose replies a real model server draws: the same learning, and one sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_policy_interrupted import _train_shared, in_two_processes
from test_train_policy import _one_thread as _one_thread
from test_train_policy import lasting, models, prompts, settings, stopping_after, train

from prefloop.engine import ModelServerProcess, write_manifest
from prefloop.errors import ConfigError, UnavailableError
from prefloop.models.remote_sampling import HttpSampler
from prefloop.runs import RunFolder
from prefloop.train.policy_estimate import estimate_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.processes import Processes
from prefloop.train.snapshots import PolicySnapshot

__all__ = ["models"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    manifest = write_manifest(tmp_path_factory.mktemp("manifest") / "snapshots.json", [])
    with ModelServerProcess(manifest, threads=1, device="cpu", weights_folder=weights) as process:
        yield process


def elsewhere(models: Path, server: ModelServerProcess, weights: Path, **more: Any) -> PolicyRun:
    where = {"sampler_url": server.base_url, "sampler_folder": weights, "sampler_patience_seconds": 20.0}
    return settings(models, **(where | more))


def batches(folder: Any) -> list[dict[str, float]]:
    return [row for row in folder.metrics() if "score/train" in row]


def before_batch(number: int, action: Callable[[], None]) -> Callable[..., Any]:
    """A progress bar that does something between two batches."""

    class Bar:
        def __init__(self, steps: Any) -> None:
            self.steps = steps

        def __iter__(self) -> Iterator[int]:
            for done, step in enumerate(self.steps):
                if done == number:
                    action()
                yield step

        def set_postfix(self, **_: Any) -> None: ...

    return lambda steps, **_: Bar(steps)


def names_served(server: ModelServerProcess) -> list[str]:
    listed = httpx.get(server.base_url + "/models", trust_env=False).json()["data"]
    return [entry["id"] for entry in listed]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_run_learns_from_replies_drawn_elsewhere(
    models: Path, server: ModelServerProcess, weights: Path, tmp_path: Path, lora_rank: int
) -> None:
    run = elsewhere(
        models,
        server,
        weights,
        episodes=320,
        episodes_per_batch=32,
        lora_rank=lora_rank,
        learning_rate=5e-3,
        value_learning_rate=5e-3,
        kl_coefficient=0.0,
    )
    result, folder = train(run, tmp_path)
    for row in batches(folder):
        assert row["policy/ratio_first_error"] < 1e-4
        assert row["sampler/largest_difference"] < 1e-4  # the server has the weights of this very batch
        assert row["sampler/weight_mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["sampler/truncated"] == 0
        assert row["time/sending_seconds"] > 0
    start, end = result.snapshots[0], result.snapshots[-1]
    assert end.score_train.value > start.score_train.value
    assert end.kl.value > 0.05 > 1e-3 > abs(start.kl.value)
    assert list(weights.iterdir()) == []  # what was sent is gone
    assert [name for name in names_served(server) if name.startswith("rollout")] != []
    assert sum(name.startswith("rollout-") for name in names_served(server)) <= 1  # of adapters the last alone


def test_broken_off_or_with_a_server_that_was_away_a_run_ends_with_the_bits_of_one_left_alone(
    models: Path, weights: Path, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "snapshots.json", [])
    with ModelServerProcess(manifest, threads=1, device="cpu", weights_folder=weights) as server:
        run = elsewhere(
            models, server, weights, episodes=64, checkpoint_every_batches=2, learning_rate=5e-3, sampler_requests=1
        )
        _, folder = train(run, tmp_path / "whole")

        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "broken", progress=stopping_after(3))
        assert list(weights.iterdir()) == []
        (weights / folder.path.name / ".writing-1").mkdir(parents=True)  # as a kill would leave it
        _, resumed = train(run, tmp_path / "broken", resume=True)
        assert lasting(resumed) == lasting(folder)
        assert list(weights.iterdir()) == []

        _, waited = train(run, tmp_path / "restarted", progress=before_batch(1, server.restart))
        assert lasting(waited) == lasting(folder)

        impatient = run.model_copy(update={"sampler_patience_seconds": 0.3})
        with pytest.raises(UnavailableError, match=r"does not answer .* go on with --resume"):
            train(impatient, tmp_path / "gone", progress=before_batch(3, server.stop))
        server.start()
        _, resumed = train(impatient, tmp_path / "gone", resume=True)
        assert lasting(resumed) == lasting(folder)


def test_prompts_asked_for_at_once_change_a_run_by_rounding_alone(
    models: Path, server: ModelServerProcess, weights: Path, tmp_path: Path
) -> None:
    rows = []
    for requests in (1, 16):
        run = elsewhere(models, server, weights, sampler_requests=requests)
        rows.append(batches(train(run, tmp_path / str(requests))[1]))
    for one, other in zip(*rows, strict=True):
        for name in ("score/train", "kl/k1", "policy/loss", "value/loss", "reply/tokens"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_two_processes_sample_from_one_server(
    models: Path, server: ModelServerProcess, weights: Path, tmp_path: Path
) -> None:
    for rank in (0, 4):
        run = elsewhere(models, server, weights, lora_rank=rank, learning_rate=5e-3)
        folder = RunFolder.create(tmp_path, "policy", run)

        def work(processes: Processes, run: PolicyRun = run, folder: RunFolder = folder) -> list[PolicySnapshot]:
            return _train_shared(run, folder, processes)

        first, second = in_two_processes(tmp_path / f"meeting{rank}", work)
        assert first[-1].kl == second[-1].kl
        rows = batches(folder)
        assert [row["episodes"] for row in rows] == [16, 32, 48, 64]
        assert all(row["sampler/largest_difference"] < 1e-4 for row in rows)
        assert list(weights.iterdir()) == []


def test_a_server_that_keeps_its_old_weights_is_noticed_and_weighed(
    models: Path, server: ModelServerProcess, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, seen = HttpSampler._order, list[str]()

    def deaf(self: HttpSampler, route: str, body: dict[str, Any]) -> None:
        if route not in seen:  # hears each order once
            order(self, route, body)
        seen.append(route)

    monkeypatch.setattr(HttpSampler, "_order", deaf)
    run = elsewhere(
        models, server, weights, episodes=128, episodes_per_batch=32, learning_rate=2e-2, kl_coefficient=0.0
    )
    result, folder = train(run, tmp_path)
    rows = batches(folder)
    assert seen.count("/collective_rpc") == 5  # at the start and after each batch
    assert rows[0]["sampler/mean_difference"] < 1e-5
    assert rows[-1]["sampler/mean_difference"] > 0.1
    assert rows[-1]["sampler/truncated"] > 0
    assert all(row["policy/ratio_first_error"] < 1e-4 for row in rows)  # the policy's own are what a step starts from
    assert any(reason.startswith("sampler_disagrees") for reason in result.alarms)


def test_what_is_wrong_with_a_server_is_told_before_anything_is_trained(
    models: Path, server: ModelServerProcess, weights: Path, tmp_path: Path
) -> None:
    closed_manifest = write_manifest(tmp_path / "snapshots.json", [])
    with ModelServerProcess(closed_manifest, threads=1, device="cpu") as closed:
        cases: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"sampler_folder": None}, ConfigError, "needs a folder that the server sees"),
            ({"sampler_folder": tmp_path / "nowhere"}, ConfigError, "nowhere' is none that can be written to"),
            ({"sampler_url": "over there"}, ConfigError, "'over there' is not the address of a server"),
            (
                {"sampler_url": "http://127.0.0.1:9", "sampler_patience_seconds": 0.0},
                UnavailableError,
                "does not answer",
            ),
            ({"sampler_url": closed.base_url}, ConfigError, "start it with --weights-folder"),
            ({"sampler_url": closed.base_url, "lora_rank": 2}, ConfigError, "start it with --weights-folder"),
            ({"sampler_folder": tmp_path}, ConfigError, "loads weights from below"),
            ({"sampler_model": "policy"}, ConfigError, "serves no 'policy' but .*set sampler_model"),
        ]
        for number, (change, kind, words) in enumerate(cases):
            run = elsewhere(models, server, weights).model_copy(update=change)
            with pytest.raises(kind, match=words):
                train(run, tmp_path / str(number))


def test_a_dry_run_asks_the_server(models: Path, server: ModelServerProcess, weights: Path) -> None:
    run = elsewhere(models, server, weights, episodes=960)
    estimate = estimate_policy(run, prompts(24), prompts(9, seed=1))
    assert estimate.batches == 60
    assert list(weights.iterdir()) == []
    away = run.model_copy(update={"sampler_url": "http://127.0.0.1:9", "sampler_patience_seconds": 0.0})
    with pytest.raises(UnavailableError, match="does not answer"):
        estimate_policy(away, prompts(24), prompts(9, seed=1))
