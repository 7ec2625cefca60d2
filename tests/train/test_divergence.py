"""A last step that breaks the model leaves no checkpoint of it and no model, whatever is trained; planted and real."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_distill
import test_train_policy
import test_train_preference
import torch
from test_distill import teacher
from test_train_policy import models
from test_train_preference import start

from prefloop.errors import TrainingError
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.distill import train_distillation
from prefloop.train.divergence import require_room, require_sound
from prefloop.train.lm import LanguageRun, train_language_model
from prefloop.train.preference import held_out_metrics, start_model, train_preference

__all__ = ["models", "start", "teacher"]

TEXTS = [(Message(role="user", text="old house"), Message(role="assistant", text="blue river"))] * 4
Made = Callable[..., tuple[Callable[[], Any], RunFolder]]


def language(request: pytest.FixtureRequest, parent: Path, rate: float) -> tuple[Callable[[], Any], RunFolder]:
    settings = {"steps": 1, "warmup_steps": 0, "tokens_per_step": 64, "held_out_conversations": 0}
    run = LanguageRun(start=request.getfixturevalue("start"), learning_rate=rate, dtype="float32", **settings)
    folder = RunFolder.create(parent, "lm", run)
    return lambda: train_language_model(run, TEXTS, folder, progress=test_distill.quiet), folder


def preference(request: pytest.FixtureRequest, parent: Path, rate: float) -> tuple[Callable[[], Any], RunFolder]:
    begin = request.getfixturevalue("start")
    run = test_train_preference.settings_for(begin, learning_rate=rate, warmup_steps=0, pairs_per_step=64)
    pairs = test_train_preference.make_pairs(8, seed=3)
    folder = RunFolder.create(parent, "preference", run)
    more = {"held_out": pairs, "progress": test_train_preference.quiet}
    return lambda: train_preference(run, pairs, folder, **more), folder


def distillation(request: pytest.FixtureRequest, parent: Path, rate: float) -> tuple[Callable[[], Any], RunFolder]:
    settings = {"epochs": 1, "texts_per_step": 32, "warmup_steps": 0}
    run = test_distill.settings(request.getfixturevalue("teacher"), learning_rate=rate, **settings)
    folder = RunFolder.create(parent, "distill", run)
    texts = test_distill.TEXTS
    return lambda: train_distillation(run, test_distill.PROMPT, texts, folder, progress=test_distill.quiet), folder


@pytest.mark.parametrize("rate", [1e15, 1e37])  # finite weights: NaN comes of the first, and 0 of the second
@pytest.mark.parametrize("made", [language, preference, distillation])
def test_a_run_of_one_step_that_diverges_leaves_nothing(
    made: Made, rate: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    go, folder = made(request, tmp_path, rate)
    with pytest.raises(TrainingError, match=r"After step 1 the model .*lower learning_rate \(now 1e\+") as raised:
        go()
    assert f"(now {rate:g})" in str(raised.value)
    assert not (folder.path / "model").exists()
    assert not list(folder.checkpoints.glob("step-*"))
    assert not [row for row in folder.metrics() if row["step"] == 1]


@pytest.mark.parametrize("made", [language, preference, distillation])
def test_a_rate_that_is_bearable_leaves_a_model(made: Made, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    go, folder = made(request, tmp_path, 1e-3)
    go()
    assert (folder.path / "model").is_dir()
    assert folder.metrics()[-1]["step"] == 1


@pytest.mark.parametrize(("learning", "name"), [("learning_rate", "policy"), ("value_learning_rate", "value")])
@pytest.mark.parametrize("rate", [1e15, 1e37])
def test_a_policy_run_that_diverges_keeps_its_start_alone(
    learning: str, name: str, rate: float, models: Path, tmp_path: Path
) -> None:
    run = test_train_policy.settings(models, episodes=16, minibatches=1, epochs=1, snapshots=1, **{learning: rate})
    with pytest.raises(TrainingError, match=rf"updates of the {name} model .*lower {learning} \(now 1e\+") as raised:
        test_train_policy.train(run, tmp_path)
    assert f"(now {rate:g})" in str(raised.value)
    assert not list(tmp_path.glob("*/snapshots/*"))
    assert not list(tmp_path.glob("*/checkpoints/step-*"))


def test_what_no_text_needs_is_looked_at_too(start: Path) -> None:
    model = start_model(test_train_preference.settings_for(start)).model
    given = torch.zeros(2)
    require_sound(model, given, "After step 7 ", "mend it")
    with torch.no_grad():
        model.model.embed_tokens.weight[-1, :3] = torch.tensor([math.nan, math.inf, 1e38])
    with pytest.raises(TrainingError) as raised:
        require_sound(model, given, "After step 7 ", "mend it")
    assert str(raised.value) == (
        "After step 7 the model gives finite numbers and 3 of its weights are beyond 1.8e+19 or no numbers; mend it."
    )
    model.model.embed_tokens.requires_grad_(False)  # does not learn: it was looked at when it was loaded
    require_sound(model, given, "After step 7 ", "mend it")
    with pytest.raises(TrainingError, match="gives -inf and 0 of its weights"):
        require_sound(model, torch.tensor([0.0, -math.inf, math.nan]), "After step 7 ", "mend it")


def test_weights_too_large_for_the_type_that_is_saved_are_named(start: Path, tmp_path: Path) -> None:
    model = start_model(test_train_preference.settings_for(start)).model
    with torch.no_grad():
        model.model.embed_tokens.weight[-1, :2] = 70_000
    require_room(model.to(torch.bfloat16), torch.bfloat16)
    with pytest.raises(
        TrainingError, match=r"2 of the trained weights are above 65504, .* saved_dtype = float16 holds"
    ):
        require_room(model.to(torch.float16), torch.float16)


def test_scores_that_are_no_numbers_have_no_accuracy(start: Path) -> None:
    model = start_model(test_train_preference.settings_for(start))
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    measured = held_out_metrics(model, test_train_preference.make_pairs(3, seed=3))
    assert set(measured) == {"preference/held_out_loss", "preference/held_out_accuracy"}
    assert all(math.isnan(value) for value in measured.values())
