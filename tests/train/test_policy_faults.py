"""Planted faults of a policy run are told apart, each by its name and reason; a healthy run rings for none of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_policy import models, quiet, settings

from prefloop.errors import DataError, ModelError
from prefloop.models.language import load_language_model, new_llama, save_model, scale_logits, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.runs import RunFolder
from prefloop.schema import Message, SamplingSettings
from prefloop.train import rollout
from prefloop.train.alarms import LOGP_DIFFERENCE_LIMIT
from prefloop.train.policy import PolicyResult, train_policy

__all__ = ["models"]

ASK = (Message(role="user", text="how does the river sing"),)


@pytest.fixture(scope="module")
def endings(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that ends its replies at various lengths: its end token has a long embedding, and so a wild logit."""
    folder = tmp_path_factory.mktemp("endings")
    policy, renderer = load_language_model(models / "policy")
    with torch.no_grad():
        policy.get_input_embeddings().weight[renderer.end_id] *= 30
    return save_model(policy, renderer.tokenizer, folder / "policy")


@pytest.fixture(scope="module")
def length_lover(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PM whose score grows with the length and knows nothing else.

    One layer of even attention over all tokens: only the end token has a value, and it stands twice in a turn and its
    reply, so what is read falls as 2 / length; the head turns it round.
    """
    _, renderer = load_language_model(models / "policy")
    trunk = new_llama(renderer.tokenizer, hidden=32, layers=1, heads=4, window_tokens=64, seed=0)
    with torch.no_grad():
        for name, weight in trunk.named_parameters():
            if "norm" not in name:
                weight.zero_()
        embedding, layer = trunk.model.embed_tokens.weight, trunk.model.layers[0].self_attn
        embedding[:, 1] = 1.0
        embedding[renderer.end_id] = 0.0
        embedding[renderer.end_id, 0] = 1.0
        layer.v_proj.weight[:8, 0] = 1.0  # the first head of width 8
        layer.o_proj.weight[2, :8] = 1.0
    path = save_model(trunk, renderer.tokenizer, tmp_path_factory.mktemp("length") / "trunk")
    judge = PreferenceModel.from_language_model(path, 0)
    with torch.no_grad():
        judge.model.score.weight.zero_()
        judge.model.score.weight[0, 2] = -1.0
    return judge.save(path.parent / "pm")


def run(models: Path, tmp_path: Path, prompts: list[Any], **changes: Any) -> tuple[PolicyResult, list[str]]:
    """A short run and the names of its alarms."""
    wanted = settings(models, episodes=64, episodes_per_batch=32).model_copy(update=changes)
    folder = RunFolder.create(tmp_path, "policy", wanted)
    result = train_policy(wanted, prompts, folder, [ASK] * 8, progress=quiet)
    return result, [row["alarm/name"] for row in folder.metrics() if "alarm/name" in row]


def test_a_healthy_run_is_silent(models: Path, endings: Path, tmp_path: Path) -> None:
    assert run(models, tmp_path, [ASK] * 16, policy=endings)[1] == []


@pytest.fixture(scope="module")
def sharp(endings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a mind of its own, so that a temperature matters."""
    policy, renderer = load_language_model(endings)
    scale_logits(policy, 20.0)
    return save_model(policy, renderer.tokenizer, tmp_path_factory.mktemp("sharp") / "policy")


def _at_another_temperature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rollout, "SamplingSettings", partial(SamplingSettings, temperature=0.8))


def _from_the_weights_of_the_start(patch: pytest.MonkeyPatch) -> None:
    drawn = rollout.sample_replies
    patch.setattr(rollout, "sample_replies", lambda m, *more: drawn(replace(m, policy=m.reference), *more))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("plant", [None, _at_another_temperature, _from_the_weights_of_the_start])
def test_replies_that_another_policy_drew(
    models: Path, sharp: Path, tmp_path: Path, plant: Any, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plant is not None:
        plant(monkeypatch)
    result, names = run(models, tmp_path, [ASK] * 16, policy=sharp, dtype=dtype, learning_rate=1e-3)
    assert ("ratio_not_one" in names) is (plant is not None)
    rows = [row for row in RunFolder(Path(result.report).parent).metrics() if "policy/logp_first_difference" in row]
    limit = LOGP_DIFFERENCE_LIMIT[dtype]
    assert (rows[-1]["policy/logp_first_difference"] > limit) is (plant is not None)  # the mean alone tells


def test_a_pm_that_rewards_length_alone(models: Path, endings: Path, length_lover: Path, tmp_path: Path) -> None:
    result, names = run(models, tmp_path, [ASK] * 16, policy=endings, preference_model=length_lover)
    assert names == ["score_follows_length"]
    assert "rewards long replies and little else" in result.alarms[0]


def test_a_pm_without_finite_scores(models: Path, endings: Path, tmp_path: Path) -> None:
    broken = PreferenceModel.load(models / "pm")
    with torch.no_grad():
        broken.model.score.weight.fill_(3e38)
    folder = broken.save(tmp_path / "broken")
    said = r"gives the score (-?inf|nan)"
    with pytest.raises(ModelError, match=r"The PM trained against \(preference_model\) " + said):
        run(models, tmp_path / "one", [ASK] * 16, policy=endings, preference_model=folder)
    with pytest.raises(ModelError, match=r"The held-out PM \(held_out_preference_model\) " + said):
        run(models, tmp_path / "two", [ASK] * 16, policy=endings, held_out_preference_model=folder)
    with pytest.raises(ModelError, match=r"The watching PM 'lost' \(watching_preference_models\) " + said):
        run(models, tmp_path / "three", [ASK] * 16, policy=endings, watching_preference_models={"lost": folder})


def test_a_pm_whose_weights_are_no_numbers(models: Path, endings: Path, tmp_path: Path) -> None:
    broken = PreferenceModel.load(models / "pm")
    with torch.no_grad():
        broken.model.score.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="32 values that are not finite"):
        run(models, tmp_path, [ASK] * 16, policy=endings, preference_model=broken.save(tmp_path / "broken"))


def test_a_prompt_longer_than_the_window(models: Path, endings: Path, tmp_path: Path) -> None:
    long = (Message(role="user", text="the blue cup " * 60),)
    result, names = run(models, tmp_path, [*[ASK] * 16, long], policy=endings)
    assert names == ["prompts_too_long"]
    assert "1 of 17 prompts were left out" in result.alarms[0]


def test_a_policy_that_never_ends_its_replies(models: Path, tmp_path: Path) -> None:
    result, names = run(models, tmp_path, [ASK] * 16, max_response_tokens=2, seed=1)  # 16 tokens, 1 in 300 ends one
    assert names == ["no_end_token"]
    assert "wrote its end token within 2 tokens" in result.alarms[0]


def test_one_held_out_prompt_has_no_spread(models: Path, tmp_path: Path) -> None:
    def train(normalise: str) -> PolicyResult:
        wanted = settings(models, episodes=16, snapshots=1, normalise=normalise)
        folder = RunFolder.create(tmp_path, "policy", wanted)
        return train_policy(wanted, [ASK] * 16, folder, [ASK], progress=quiet)

    with pytest.raises(DataError, match=r"held-out prompts, of which there are 1 and at least 2 are needed"):
        train("reference")
    assert train("none").best.score_train.n == 1


@pytest.mark.parametrize("part", ["preference_model", "held_out_preference_model"])
def test_a_pm_whose_tokens_are_letters(models: Path, endings: Path, tmp_path: Path, part: str) -> None:
    tokenizer = train_tokenizer(["zzz"], 262)
    trunk = new_llama(tokenizer, hidden=32, layers=1, heads=4, window_tokens=64, seed=3)
    path = save_model(trunk, tokenizer, tmp_path / "letters")
    judge = PreferenceModel.from_language_model(path, 4).save(tmp_path / "pm")
    long = (Message(role="user", text="mend the blue cup how does the river sing for bread"),)
    result, names = run(models, tmp_path, [*[ASK] * 16, long], policy=endings, **{part: judge})
    assert names == ["prompts_too_long"]
    assert "1 of 17 prompts were left out" in result.alarms[0]
    assert f"({part}) cannot read 1 of them" in result.alarms[0]


def test_a_policy_with_more_ids_than_the_pms(models: Path, endings: Path, tmp_path: Path) -> None:
    policy, renderer = load_language_model(endings)
    rows = len(renderer.tokenizer)
    policy.resize_token_embeddings(rows + 300, mean_resizing=False)
    with torch.no_grad():  # half of what it draws is no text
        policy.get_input_embeddings().weight[rows:] = policy.get_input_embeddings().weight[:rows].mean(0)
    padded = save_model(policy, renderer.tokenizer, tmp_path / "padded")
    result, _ = run(models, tmp_path, [ASK] * 16, policy=padded)
    assert len(result.snapshots) == 3
