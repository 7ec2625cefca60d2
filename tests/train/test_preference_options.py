"""Options of preference-model training: soft labels, weights, centring, the scale and the format in the config."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tqdm import tqdm

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.language import load_config, load_tokenizer, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.runs import RunFolder
from prefloop.schema import Message, Mode, PreferencePair, Tranche
from prefloop.train.lessons import Lessons, read_worker_weights
from prefloop.train.preference import PreferenceTraining, start_model, train_preference
from prefloop.train.preference_settings import PreferenceRun

TEXTS = ["red house", "blue tree", "old river", "green house", "new tree"]


def quiet(steps: Any, **settings: Any) -> Any:
    return tqdm(steps, disable=True, **settings)


def pair(chosen: str, rejected: str, **fields: Any) -> PreferencePair:
    context = (Message(role="user", text="which"),)
    return PreferencePair(context=context, chosen=chosen, rejected=rejected, **fields)


PAIRS = [
    pair("red house", "blue tree", grade=1, worker_id="careful"),  # much better
    pair("old river", "green house", grade=6, worker_id="careless"),  # slightly better
    pair("new tree", "red river", mode=Mode.RED_TEAM),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(TEXTS * 20, 300)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=64, seed=0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("start") / "lm")


def train(start: Path, parent: Path, pairs: list[PreferencePair] = PAIRS, **options: Any) -> PreferenceTraining:
    run = PreferenceRun(start=start, pairs_per_step=8, dtype="float32", **options)
    return train_preference(run, pairs, RunFolder.create(parent, "preference", run), progress=quiet)


def first_row(start: Path, parent: Path, **options: Any) -> dict[str, Any]:
    trained = train(start, parent, **options)
    return RunFolder(trained.path.parent).metrics()[0]


def losses_at_start(start: Path) -> list[tuple[float, float]]:
    """-log sigmoid of each difference and of its negative, from the plain class."""
    both = []
    model = start_model(PreferenceRun(start=start))
    for one in PAIRS:
        encoded = model.encode_pair(one)
        with torch.no_grad():
            chosen, rejected = (
                model.model(torch.tensor([ids])).logits[0, 0].item() for ids in (encoded.chosen, encoded.rejected)
            )
        both.append((math.log1p(math.exp(rejected - chosen)), math.log1p(math.exp(chosen - rejected))))
    return both


def test_lessons_by_hand() -> None:
    lessons = Lessons.of(
        PAIRS, grade_probabilities=[0.95, 0.8, 0.6], worker_weights={"careless": 0.5}, red_team_weight=3.0
    )
    assert lessons.probabilities.tolist() == [0.95, 0.6, 1.0]  # grade 1; grade 6 is as strong as 3; no grade
    # 1, 0.5 and 3 have the mean 1.5
    assert lessons.weights == pytest.approx([1 / 1.5, 0.5 / 1.5, 3 / 1.5])
    left = Lessons.of(PAIRS, worker_weights={"careless": 0, "careful": 2}, red_team_weight=2.0)
    assert (len(left.pairs), left.weights.tolist(), left.dropped_weightless) == (2, [1.0, 1.0], 1)
    assert [part.tolist() for part in Lessons.of(PAIRS)[1:3]] == [[1.0] * 3, [1.0] * 3]
    with pytest.raises(DataError, match="All 3 pairs have weight 0"):
        Lessons.of(PAIRS, worker_weights={"careless": 0, "careful": 0}, red_team_weight=0)
    huge = Lessons.of(PAIRS, worker_weights={"careless": 1e308, "careful": 1e308}, red_team_weight=1e308)
    assert huge.weights.tolist() == [1.0, 1.0, 1.0]  # though their sum is more than a number can hold
    with pytest.raises(DataError, match="multiply to more than 1e308; give smaller ones"):
        Lessons.of(PAIRS, red_team_weight=1e308, tranche_weights={Tranche.BASE: 10.0})
    online = [*PAIRS, pair("red house", "old river", tranche=Tranche.ONLINE, mode=Mode.RED_TEAM)]
    mixed = Lessons.of(online, red_team_weight=2.0, tranche_weights={Tranche.ONLINE: 0.5})
    assert mixed.weights == pytest.approx([0.8, 0.8, 1.6, 0.8])  # 1, 1, 2 and 2 x 0.5 have the mean 1.25


def test_a_fraction_of_the_language_models_rate(start: Path, tmp_path: Path) -> None:
    rate = {"learning_rate_fraction": 0.01, "language_model_learning_rate": 3e-2, "warmup_steps": 0}
    assert first_row(start, tmp_path, **rate)["preference/learning_rate"] == pytest.approx(3e-4)
    with pytest.raises(ConfigError, match=r"= 0.01 needs language_model_learning_rate; set it"):
        train(start, tmp_path, learning_rate_fraction=0.01)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tranche_shares.base=0.5", "sum to 1"),
        ("tranche_weights.online=-1.0", "at least 0"),
        ("tranche_shares.old=1.0", "tranche_shares.old"),
    ],
)
def test_shares_and_weights_of_tranches_are_checked(start: Path, setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PreferenceRun.load([], [f"start={start}", setting])


def test_soft_labels_reach_the_loss(start: Path, tmp_path: Path) -> None:
    row = first_row(start, tmp_path, grade_probabilities=(0.95, 0.8, 0.6))
    (one, one_not), (two, two_not), (three, _) = losses_at_start(start)
    expected = 0.95 * one + 0.05 * one_not + 0.6 * two + 0.4 * two_not + three
    assert row["preference/loss"] == pytest.approx(expected / 3, rel=1e-5)


def test_weights_reach_the_loss(start: Path, tmp_path: Path) -> None:
    file = tmp_path / "workers.json"
    file.write_text('{"careless": 0.5}')
    row = first_row(start, tmp_path, worker_weights=file, red_team_weight=3.0)
    (one, _), (two, _), (three, _) = losses_at_start(start)
    assert row["preference/loss"] == pytest.approx((one + 0.5 * two + 3 * three) / 1.5 / 3, rel=1e-5)


def test_packing_never_changes_weighted_gradients(start: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"red_team_weight": 3.0, "centring": 0.5, "grade_probabilities": (0.9,)}
    usual = first_row(start, tmp_path, **options)
    parts = first_row(start, tmp_path, **options, tokens_per_forward=16)
    for name in ("preference/loss", "preference/gradient_norm", "preference/centring_penalty"):
        assert parts[name] == pytest.approx(usual[name], rel=1e-5)


def test_centring_holds_the_zero(start: Path, tmp_path: Path) -> None:
    row = first_row(start, tmp_path / "row", centring=0.5)
    model = start_model(PreferenceRun(start=start))
    means = []
    for one in PAIRS:
        encoded = model.encode_pair(one)
        means.append(sum(model.score_ids([encoded.chosen, encoded.rejected])) / 2)
    assert row["preference/centring_penalty"] == pytest.approx(sum(m**2 for m in means) / 3, rel=1e-4)
    options: dict[str, Any] = {"epochs": 60, "learning_rate": 1e-2, "warmup_steps": 0}
    held, free = (
        train(start, tmp_path / name, **options, centring=value).model.model.config.mean
        for name, value in (("held", 10.0), ("free", 0.0))
    )
    assert abs(held) < min(0.05, abs(free))


def test_without_options_the_loss_is_the_plain_one(start: Path, tmp_path: Path) -> None:
    row = first_row(start, tmp_path)
    assert row["preference/loss"] == pytest.approx(sum(loss for loss, _ in losses_at_start(start)) / 3, rel=1e-5)
    assert "preference/centring_penalty" not in row


def test_scale_and_format_stand_in_the_config(start: Path, tmp_path: Path) -> None:
    trained = train(start, tmp_path)
    config = json.loads((trained.path / "config.json").read_text())
    loaded = PreferenceModel.load(trained.path)
    scores = loaded.score(
        [[*one.context, Message(role="assistant", text=text)] for one in PAIRS for text in (one.chosen, one.rejected)]
    )
    mean = sum(scores) / 6
    std = math.sqrt(sum((score - mean) ** 2 for score in scores) / 6)
    assert (config["mean"], config["std"]) == (pytest.approx(mean, abs=1e-6), pytest.approx(std, rel=1e-4))
    assert loaded.normalised([mean, mean + 2 * std]) == pytest.approx([0.0, 2.0], abs=1e-4)
    assert config["conversation_format"] == loaded.renderer.format
    assert config["conversation_format"].startswith("own:")
    loaded.set_scale([1.0, 1.0])
    with pytest.raises(ModelError, match="no mean and std"):
        loaded.normalised([1.0])


def test_another_template_is_refused_at_load(start: Path, tmp_path: Path) -> None:
    path = train(start, tmp_path).path
    tokenizer = load_tokenizer(path)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"written as own:\w+ and its tokenizer now writes them as hh:\w+; put back"):
        PreferenceModel.load(path)
    assert load_config(path).conversation_format.startswith("own:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no JSON object"),
        ("{", "not JSON"),
        ('{"w": -1}', "gives 'w' -1"),
        ('{"w": NaN}', "gives 'w' nan"),
        ('{"w": 1' + "0" * 400 + "}", "gives 'w' 10+; a weight"),
        ('{"w": true}', "gives 'w' True"),
    ],
)
def test_wrong_worker_weights_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "workers.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_worker_weights(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_worker_weights(tmp_path / "nowhere.json")


def test_wrong_settings_are_refused(start: Path) -> None:
    for wrong in ({"grade_probabilities": (0.4,)}, {"red_team_share": 1.5}, {"centring": -1.0}):
        with pytest.raises(ValidationError):
            PreferenceRun(start=start, **wrong)
