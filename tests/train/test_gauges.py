"""Gauges of a policy run: further PMs, kept replies, snapshots at equal steps of sqrt(KL), and what they say."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import ConfigError, DataError
from prefloop.models.language import new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt
from prefloop.runs import RunFolder
from prefloop.schema import Interval, Message
from prefloop.train.gauges import EvaluatedReply, Gauges, evaluated_replies, evaluation_prompts
from prefloop.train.optimisation import optimisation, read_optimisation
from prefloop.train.optimisation_report import write_optimisation_report
from prefloop.train.policy import train_policy
from prefloop.train.policy_report import deploy_tile
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.snapshots import PolicySnapshot

WORDS = ["mend", "the", "blue", "cup", "how", "does", "river", "sing", "ask", "kind", "tree", "for", "bread"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 50, 300)
    save_model(
        new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0), tokenizer, folder / "policy"
    )
    for seed, name in enumerate(("pm", "held_out", "small")):
        PreferenceModel.from_language_model(folder / "policy", seed).save(folder / name)
    return folder


def settings(models: Path, **more: Any) -> PolicyRun:
    values: dict[str, Any] = {
        "episodes": 96,
        "episodes_per_batch": 16,
        "minibatches": 2,
        "max_response_tokens": 6,
        "snapshots": 1,
        "row_tokens": 64,
        "workers": 1,
        "device": "cpu",
        "learning_rate": 5e-3,
        "kl_coefficient": 0.0,
        "snapshot_every_root_kl": 0.1,
        "checkpoint_every_batches": 1,
        "watching_preference_models": {"small": models / "small"},
    }
    return PolicyRun(
        policy=models / "policy",
        preference_model=models / "pm",
        held_out_preference_model=models / "held_out",
        **(values | more),
    )


class Bar(list[int]):
    def set_postfix(self, **_: Any) -> None: ...


def prompts(count: int, seed: int) -> list[list[Message]]:
    chance = random.Random(seed)
    return [[Message(role="user", text=" ".join(chance.choices(WORDS, k=4)))] for _ in range(count)]


def train(
    run: PolicyRun, parent: Path, resume: bool = False, batches: int | None = None, evaluated: tuple[int, int] = (20, 1)
) -> RunFolder:
    folder = RunFolder.create(parent, "policy", run, resume=resume)

    class Stopped(Bar):
        def __iter__(self) -> Iterator[int]:
            for done, step in enumerate(super().__iter__()):
                if done == batches:
                    raise KeyboardInterrupt
                yield step

    train_policy(
        run,
        prompts(24, 0),
        folder,
        prompts(*evaluated),
        resume=resume,
        gold=lambda context, reply: float(len(reply)),
        progress=lambda steps, **_: Stopped(steps),
    )
    return folder


def test_a_run_keeps_what_its_gauges_saw_and_resumes_alike(models: Path, tmp_path: Path) -> None:
    folder = train(settings(models), tmp_path / "whole")
    replies, asked = evaluated_replies(folder.path), evaluation_prompts(folder.path)
    rows = {row["episodes"]: row for row in folder.metrics() if "eval/kl" in row}

    assert len(asked) == 20
    assert list(replies) == sorted(rows)
    assert len(rows) > 3  # more than the start and the end: sqrt(KL) passed multiples of 0.1 on its way
    for episodes, row in rows.items():
        kept = replies[episodes]
        assert [reply.prompt for reply in kept] == list(range(20))
        assert set(kept[0].scores) == {"train", "held_out", "small", "gold"}
        assert sum(reply.scores["small"] for reply in kept) / 20 == pytest.approx(row["eval/score_watching_small"])
        assert sum(reply.kl for reply in kept) / 20 == pytest.approx(row["eval/kl"])

    with pytest.raises(KeyboardInterrupt):
        train(settings(models), tmp_path / "stopped", batches=3)
    resumed = train(settings(models), tmp_path / "stopped", resume=True)
    assert {e: r["eval/score_watching_small"] for e, r in rows.items()} == {
        row["episodes"]: row["eval/score_watching_small"] for row in resumed.metrics() if "eval/kl" in row
    }

    report = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "Where to stop" in report
    assert "small (watches)" in report.split("Snapshots")[-1]
    assert "Rise of the scores against distance" in report  # a run of a hundred episodes has both axes too
    facts = json.loads((folder.path / "optimisation.json").read_text(encoding="utf-8"))
    assert [place["episodes"] for place in facts["places"]] == sorted(rows)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(models: Path, tmp_path: Path) -> None:
    """With other evaluation prompts, of which the first run had more and got further."""
    run = settings(models, episodes=32, checkpoint_every_batches=2, snapshot_every_root_kl=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, batches=1)
    (folder,) = (RunFolder(path) for path in tmp_path.iterdir())
    assert not any(folder.checkpoints.iterdir())
    assert len(evaluation_prompts(folder.path)) == 20
    stale = folder.path / "snapshots" / "episodes-00000016"
    stale.mkdir(parents=True)
    (stale / "config.json").write_text("{}")
    (folder.path / "evaluations" / "episodes-00000016.jsonl").write_text("")

    train(run, tmp_path, resume=True, evaluated=(12, 7))
    assert evaluation_prompts(folder.path) == [tuple(prompt) for prompt in prompts(12, 7)]
    replies = evaluated_replies(folder.path)
    assert list(replies) == [0, 32]
    assert [reply.prompt for reply in replies[0]] == list(range(12))
    assert [path.name for path in (folder.path / "snapshots").iterdir()] == ["episodes-00000032"]


def test_a_reply_may_hold_any_character(tmp_path: Path) -> None:
    """Also those that some take for the end of a line."""
    said = "one\u2028two\u0085three\x1cfour\rfive"
    reply = EvaluatedReply(prompt=0, reply=said, tokens=3, stopped=True, kl=0.1, scores={"train": 1.0})
    asked = Prompt((Message(role="user", text=said),), [1])
    Gauges(RunFolder(tmp_path), {}, 0.0).keep([asked], 8, [reply])
    assert evaluation_prompts(tmp_path) == [asked.messages]
    assert evaluated_replies(tmp_path) == {8: [reply]}


def test_a_multiple_of_the_step_is_passed_once(tmp_path: Path) -> None:
    gauges = Gauges(RunFolder(tmp_path), {}, 0.5)
    # sqrt of 0.2, 0.3, 0.3, 4, 1, 9 is 0.45, 0.55, 0.55, 2, 1, 3: multiples 0, 1, 1, 4, 2, 6
    assert [gauges.is_due(kl) for kl in (0.2, 0.3, 0.3, 4.0, 1.0, 9.0)] == [False, True, False, True, False, True]
    assert gauges.mark == 6
    assert not Gauges(RunFolder(tmp_path), {}, 0.5, mark=6).is_due(9.0)
    assert not Gauges(RunFolder(tmp_path), {}, 0.0).is_due(9.0)
    assert not Gauges(RunFolder(tmp_path), {}, 0.5).is_due(float("nan"))


@pytest.mark.parametrize("name", ["gold", "train", "held_out", "a b"])
def test_a_watching_pm_has_a_name_of_its_own(models: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' cannot name a PM that watches"):
        PolicyRun.load_values(
            settings(models).model_dump(mode="json") | {"watching_preference_models": {name: "/somewhere"}}
        )


def planted(gold_turns: bool, snapshots: int = 9, prompts: int = 60) -> dict[int, list[EvaluatedReply]]:
    """The trained PM rises by 0.4 a snapshot; two that watch follow it, or follow it to the fourth and then fall."""
    chance = random.Random(0)
    base = [chance.gauss(0.0, 1.0) for _ in range(prompts)]
    found = {}
    for place in range(snapshots):
        rise = 0.4 * place
        seen = rise if not gold_turns or place <= 4 else 1.6 - 0.3 * (place - 4)
        found[place * 100] = [
            EvaluatedReply(
                prompt=i,
                reply="x",
                tokens=3,
                stopped=True,
                kl=(0.5 * place) ** 2 + chance.gauss(0.0, 0.01),
                scores={
                    "train": base[i] + rise + chance.gauss(0.0, 0.2),
                    "held_out": base[i] + seen + chance.gauss(0.0, 0.2),
                    "other": base[i] + seen + chance.gauss(0.0, 0.2),
                    "gold": base[i] + seen,
                },
            )
            for i in range(prompts)
        ]
    return found


def test_the_advice_stops_where_the_watching_scores_turn() -> None:
    found = optimisation("planted", planted(gold_turns=True))
    assert found.advice is not None
    assert found.advice.at.episodes in (300, 400)
    assert not found.advice.is_end
    track = found.scorer("held_out")
    assert track is not None
    assert track.parted is not None
    assert track.parted.episodes in (300, 400, 500)
    # sqrt(KL) grows by 0.5 each 100 episodes: 200 a unit
    assert found.samples_per_root_kl is not None
    assert found.samples_per_root_kl.value == pytest.approx(200, rel=0.02)
    trained = found.scorer("train")
    assert trained is not None
    assert trained.linear is not None
    assert trained.linear.is_whole
    assert trained.linear.fit.slope.value == pytest.approx(0.8, abs=0.05)  # 0.4 a snapshot, 0.5 apart
    assert not trained.parted


def rising() -> dict[int, list[EvaluatedReply]]:
    """Up to sqrt(KL) = 2, where 0.35 deviations a snapshot are still well above 0.1 for each of its 1.75 nats."""
    return planted(gold_turns=False, snapshots=5)


def test_the_advice_never_asks_the_known_preference() -> None:
    replies = rising()
    turned = {
        episodes: [row.model_copy(update={"scores": {**row.scores, "gold": -float(episodes)}}) for row in rows]
        for episodes, rows in replies.items()
    }
    one, other = optimisation("a", replies), optimisation("b", turned)
    assert one.advice == other.advice
    assert one.advice is not None
    assert one.advice.is_end


def test_the_report_warns_where_the_choice_and_the_advice_differ() -> None:
    def chosen(episodes: int) -> PolicySnapshot:
        one = Interval(value=1.0, low=0.0, high=2.0, n=60)
        numbers = dict.fromkeys(("score_train", "score_held_out", "kl", "reply_tokens", "stopped"), one)
        return PolicySnapshot(episodes=episodes, path="x", **numbers)

    advice = optimisation("planted", planted(gold_turns=True)).advice
    assert advice is not None
    alike, apart = deploy_tile(chosen(advice.at.episodes), advice), deploy_tile(chosen(800), advice)
    assert (alike.tone, apart.tone) == ("plain", "warning")
    assert f"where to stop: {advice.at.episodes}" in apart.note
    assert deploy_tile(chosen(800), None).tone == "plain"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    short = optimisation("short", dict(list(planted(gold_turns=False).items())[:2]))
    assert short.advice is None
    assert any("it takes 4 snapshots, not 2" in note for note in short.notes)
    assert any("three snapshots" in note for note in short.notes)
    with pytest.raises(DataError, match="holds no evaluated snapshot"):
        read_optimisation(tmp_path)


def test_several_runs_stand_on_one_page(tmp_path: Path) -> None:
    runs = [optimisation("turns", planted(gold_turns=True)), optimisation("rises", rising())]
    page = write_optimisation_report(runs, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    for words in ("The runs beside each other", "turns: where to stop", "rises: where to stop", "d(a - b log d)"):
        assert words in text
    facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [run["advice"]["is_end"] for run in facts["runs"]] == [False, True]
