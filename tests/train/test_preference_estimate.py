"""What a run is said to take: counted by hand, and what the run then does."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from prefloop.cli import cli
from prefloop.errors import ConfigError, DataError
from prefloop.models.language import new_llama, save_model, train_tokenizer
from prefloop.runs import RunFolder
from prefloop.schema import Message, Mode, PreferencePair
from prefloop.train.preference import start_model, train_preference
from prefloop.train.preference_estimate import estimate_preference
from prefloop.train.preference_settings import PreferenceRun

WORDS = ["red", "blue", "green", "old"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, 300)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=64, seed=0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("start") / "lm")


def pairs(count: int) -> list[PreferencePair]:
    """All of one length in tokens: the order of three words differs."""
    orders = [" ".join(("red", *order)) for order in permutations(WORDS[1:])]
    return [
        PreferencePair(
            context=(Message(role="user", text=orders[n % 6]),),
            chosen="red old",
            rejected="blue",
            conversation_id=str(n),
        )
        for n in range(count)
    ]


def test_steps_and_tokens_are_those_of_the_run(start: Path, tmp_path: Path) -> None:
    run = PreferenceRun(start=start, pairs_per_step=4, epochs=2, dtype="float32")
    given = pairs(10)
    estimate = estimate_preference(
        run, [*given, given[0].swap().model_copy(update={"chosen": "same", "rejected": "same"})]
    )
    assert (estimate.pairs, estimate.steps, estimate.dropped_long_share) == (10, 6, 0.0)  # 2 * ceil(10 / 4)
    encoded = start_model(run).encode_pair(given[0])
    assert estimate.tokens.value == 20 * (len(encoded.chosen) + len(encoded.rejected))  # ten pairs, two epochs
    assert estimate.tokens.low == estimate.tokens.high
    folder = RunFolder.create(tmp_path, "preference", run)
    train_preference(run, given, folder, progress=lambda steps, **more: tqdm(steps, disable=True, **more))
    rows: list[dict[str, Any]] = folder.metrics()
    assert len(rows) == estimate.steps
    before_sharing = sum(row["preference/tokens"] / (1 - row["preference/tokens_shared"]) for row in rows)
    assert before_sharing == pytest.approx(estimate.tokens.value)
    assert 0 < estimate.tokens_shared < 1
    assert estimate.parameters == sum(p.numel() for p in start_model(run).model.parameters())
    assert estimate.peak_memory_bytes > 4 * 4 * estimate.parameters  # weights, gradients and two moments in fp32
    assert 0 < estimate.seconds.low <= estimate.seconds.value


def test_long_pairs_are_left_out_of_the_tokens(start: Path) -> None:
    run = PreferenceRun(start=start, pairs_per_step=4)
    given = pairs(8)
    long = given[0].model_copy(update={"chosen": "green " * 100})
    estimate = estimate_preference(run, [*given, *[long] * 8])
    assert estimate.dropped_long_share == 0.5
    assert estimate.tokens.value == pytest.approx(estimate_preference(run, given).tokens.value)
    with pytest.raises(DataError, match=r"None of 3 pairs fits the \d+ tokens that the start model reads"):
        estimate_preference(run, [long] * 3)
    with pytest.raises(DataError, match="None of 3 pairs fits max_context_tokens = 40; raise it"):
        estimate_preference(run.model_copy(update={"max_context_tokens": 40}), [long] * 3)


def test_pairs_without_weight_are_left_out(start: Path) -> None:
    given = [one.model_copy(update={"mode": list(Mode)[n % 2]}) for n, one in enumerate(pairs(10))]
    estimate = estimate_preference(PreferenceRun(start=start, pairs_per_step=4, red_team_weight=0.0), given)
    assert (estimate.pairs, estimate.steps) == (5, 2)  # of 10, every other one
    encoded = start_model(PreferenceRun(start=start)).encode_pair(given[0])
    assert estimate.tokens.value == 5 * (len(encoded.chosen) + len(encoded.rejected))


@pytest.mark.parametrize(
    ("setting", "error", "said"),
    [
        ({"worker_weights": "nowhere.json"}, ConfigError, "worker_weights nowhere.json cannot be read"),
        ({"tranche_weights": {"base": 0.0}}, DataError, "All 10 pairs have weight 0"),
        ({"shard": True}, ConfigError, "needs several processes"),
        ({"shard": True, "lora_rank": 2}, ConfigError, "shard goes with causal models, without"),
    ],
)
def test_what_the_run_refuses_its_estimate_refuses(
    start: Path, tmp_path: Path, setting: dict[str, Any], error: type[Exception], said: str
) -> None:
    run = PreferenceRun.load_values({"start": start, "pairs_per_step": 4, **setting})
    with pytest.raises(error, match=said):
        estimate_preference(run, pairs(10))
    with pytest.raises(error, match=said):
        train_preference(run, pairs(10), RunFolder.create(tmp_path, "preference", run))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranked, settings, workspace = tmp_path / "ranked.jsonl", tmp_path / "run.toml", tmp_path / "ws"
    rows = [{"question": f"what is {n}", "answers": ["it is a number", "go away"]} for n in range(12)]
    ranked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings.write_text('start = "base"\nranked_files = ["ranked.jsonl"]\npairs_per_step = 4\nheld_out_share = 0.0\n')
    cli.main(["init", str(workspace)], standalone_mode=False)
    capsys.readouterr()
    cli.main(
        ["train", "preference", str(settings), "--dry-run", "--json", "--workspace", str(workspace)],
        standalone_mode=False,
    )
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["pairs_per_step"] == 4
    assert (told["estimate"]["pairs"], told["estimate"]["steps"]) == (24, 6)  # each ranked pair becomes two
    assert told["estimate"]["seconds"]["value"] > 0
    assert not list((workspace / "runs").iterdir())
