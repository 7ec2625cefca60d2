"""Training a preference model: it learns, counts what it drops, resumes exactly (after kill -9 too), fails clearly."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tqdm import tqdm

from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.models.checkpoint import latest_checkpoint
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.pair_file import PairFile
from prefloop.runs import RunFolder
from prefloop.schema import Message, PreferencePair
from prefloop.train.preference import PreferenceTraining, start_model, train_preference
from prefloop.train.preference_settings import PreferenceRun

WORDS = ["red", "blue", "green", "old", "new", "house", "tree", "river"]


def quiet(steps: Any, **settings: Any) -> Any:
    return tqdm(steps, disable=True, **settings)


def make_pairs(conversations: int, seed: int, turns: int = 2) -> list[PreferencePair]:
    """The better reply says 'please' somewhere; conversations of several comparisons."""
    draw = random.Random(seed)

    def words(size: int) -> list[str]:
        return [draw.choice(WORDS) for _ in range(size)]

    pairs = []
    for number in range(conversations):
        context: list[Message] = []
        for turn in range(turns):
            context.append(Message(role="user", text=" ".join(words(3))))
            good, bad = words(4), words(5)
            good.insert(draw.randrange(5), "please")
            pairs.append(
                PreferencePair(
                    context=tuple(context),
                    chosen=" ".join(good),
                    rejected=" ".join(bad),
                    conversation_id=f"c{number}",
                    turn=turn + 1,
                )
            )
            context.append(Message(role="assistant", text=" ".join(good)))
    return pairs


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([" ".join([*WORDS, "please"])] * 20, 300)
    model = new_llama(tokenizer, hidden=32, layers=2, heads=2, window_tokens=128, seed=0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("start") / "lm")


def settings_for(start: Path, **changes: Any) -> PreferenceRun:
    basic: dict[str, Any] = {"start": start, "pairs_per_step": 8, "learning_rate": 3e-3, "dtype": "float32"}
    return PreferenceRun(**(basic | changes))


def train(
    run: PreferenceRun, pairs: Sequence[PreferencePair], parent: Path, resume: bool = False, **arguments: Any
) -> tuple[PreferenceTraining, RunFolder]:
    folder = RunFolder.create(parent, "preference", run, resume=resume)
    return train_preference(run, pairs, folder, resume=resume, progress=quiet, **arguments), folder


def test_it_learns_and_the_saved_model_scores_the_same(start: Path, tmp_path: Path) -> None:
    run = settings_for(start, learning_rate=1e-2, evaluate_every_steps=10)
    held_out = make_pairs(20, seed=2)
    result, folder = train(run, make_pairs(100, seed=1), tmp_path, held_out=held_out)
    rows = folder.metrics()
    assert [row["step"] for row in rows] == list(range(1, 26))  # 200 pairs in steps of 8
    assert rows[-1]["preference/held_out_accuracy"] >= 0.95
    assert rows[-1]["preference/held_out_loss"] < 0.3
    assert [row["step"] for row in rows if "preference/held_out_loss" in row] == [10, 20, 25]
    assert rows[0]["preference/tokens_shared"] > 0.3
    assert (result.steps, result.pairs, result.dropped_long_pairs, result.dropped_turns) == (25, 200, 0, 0)
    conversations = [[*pair.context, Message(role="assistant", text=pair.chosen)] for pair in held_out[:5]]
    for few in (conversations, conversations[:1]):  # of few rows, products depend on where the weights lie in memory
        assert PreferenceModel.load(result.path).score(few) == result.model.score(few)


def test_a_head_of_zeros_begins_at_ln_2(start: Path, tmp_path: Path) -> None:
    blank = start_model(settings_for(start))
    with torch.no_grad():
        blank.head.weight.zero_()
    blank.save(tmp_path / "blank")
    _, folder = train(settings_for(tmp_path / "blank", dtype="float32"), make_pairs(8, seed=1), tmp_path)
    assert folder.metrics()[0]["preference/loss"] == pytest.approx(math.log(2), rel=1e-7)


def test_first_step_by_hand(start: Path, tmp_path: Path) -> None:
    """One step without warm-up, decay or clipping moves every weight as AdamW does on the plain loss."""
    pairs = make_pairs(4, seed=1)
    run = settings_for(start, warmup_steps=0, weight_decay=0.0, max_gradient_norm=1e9, learning_rate=1e-3)
    result, folder = train(run, pairs, tmp_path)

    plain = start_model(run).model
    losses = []
    for pair in pairs:
        both = start_model(run).encode_pair(pair)
        chosen, rejected = (plain(torch.tensor([ids])).logits[0, 0] for ids in (both.chosen, both.rejected))
        losses.append(-torch.nn.functional.logsigmoid(chosen - rejected))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert folder.metrics()[0]["preference/loss"] == pytest.approx(loss.item(), abs=1e-6)
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in plain.parameters() if p.grad is not None))
    assert folder.metrics()[0]["preference/gradient_norm"] == pytest.approx(norm, rel=1e-4)
    head, gradient = plain.score.weight.detach(), plain.score.weight.grad
    # AdamW's first step is learning_rate * g / (|g| + 1e-8): the sign where g is not tiny
    moved = head - result.model.model.score.weight.detach()
    torch.testing.assert_close(moved, 1e-3 * gradient / (gradient.abs() + 1e-8), rtol=1e-3, atol=1e-6)


def test_language_loss_by_hand(start: Path, tmp_path: Path) -> None:
    """The chosen texts' loss as the plain language model has it, however much the pairs share; its gradient counts."""
    pairs = make_pairs(4, seed=1)
    run = settings_for(start, warmup_steps=0, max_gradient_norm=1e9, language_weight=0.5)
    _, folder = train(run, pairs, tmp_path)

    pm, language_model = start_model(run), load_language_model(start).model
    language_model.model = pm.trunk  # one trunk under both heads
    language_model.tie_weights()
    preference, language = [], []
    for pair in pairs:
        both = pm.encode_pair(pair)
        chosen, rejected = (pm.model(torch.tensor([ids])).logits[0, 0] for ids in (both.chosen, both.rejected))
        preference.append(-torch.nn.functional.logsigmoid(chosen - rejected))
        language.append(language_model(torch.tensor([both.chosen]), labels=torch.tensor([both.chosen])).loss)
    (torch.stack(preference).mean() + 0.5 * torch.stack(language).mean()).backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in pm.model.parameters() if p.grad is not None))
    row = folder.metrics()[0]
    assert row["preference/language_loss"] == pytest.approx(torch.stack(language).mean().item(), rel=1e-5)
    assert row["preference/loss"] == pytest.approx(torch.stack(preference).mean().item(), rel=1e-5)
    assert row["preference/gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("language_weight", [0.0, 1.0])
@pytest.mark.parametrize("changes", [{"tokens_per_forward": 64}, {"row_tokens": 24}, {"row_tokens": 512}])
def test_packing_never_changes_the_result(
    start: Path, tmp_path: Path, changes: dict[str, int], language_weight: float
) -> None:
    pairs = make_pairs(6, seed=3)
    usually = {"pairs_per_step": 12, "language_weight": language_weight}
    # One step: over more of them Adam turns rounding into direction where a gradient is nearly zero.
    _, usual = train(settings_for(start, **usually), pairs, tmp_path)
    _, other = train(settings_for(start, **usually, **changes), pairs, tmp_path)
    same = ["preference/loss", "preference/gradient_norm", "preference/score_std"]
    for name in same + ["preference/language_loss"] * (language_weight > 0):
        assert other.metrics()[0][name] == pytest.approx(usual.metrics()[0][name], rel=1e-5)


def test_resumed_equals_uninterrupted(start: Path, tmp_path: Path) -> None:
    pairs = make_pairs(24, seed=4)
    run = settings_for(start, epochs=2, checkpoint_every_steps=4, schedule="cosine", label_smoothing=0.05)
    whole, whole_folder = train(run, pairs, tmp_path / "whole", held_out=pairs[:4])

    class Stop(Exception):
        pass

    class Stopping(tqdm):
        def set_postfix(self, *arguments: Any, **more: Any) -> None:
            super().set_postfix(*arguments, **more)
            if self.n >= 6:
                raise Stop

    folder = RunFolder.create(tmp_path / "parts", "preference", run)
    with pytest.raises(Stop):
        train_preference(run, pairs, folder, pairs[:4], progress=lambda s, **k: Stopping(s, **k, mininterval=0))
    assert latest_checkpoint(folder.checkpoints).step == 4  # type: ignore[union-attr]
    resumed, folder = train(run, pairs, tmp_path / "parts", resume=True, held_out=pairs[:4])
    assert folder.metrics() == whole_folder.metrics()
    assert resumed[2:] == whole[2:]
    for name, value in whole.model.model.state_dict().items():
        assert torch.equal(value, resumed.model.model.state_dict()[name]), name
    again, _ = train(run, pairs, tmp_path / "parts", resume=True)  # a finished run resumes to itself
    assert again.model.score([[*pairs[0].context, Message(role="assistant", text="please")]]) == whole.model.score(
        [[*pairs[0].context, Message(role="assistant", text="please")]]
    )
    with pytest.raises(DataError, match="other pairs or weights"):
        train(run, pairs[:-1], tmp_path / "parts", resume=True)


def test_a_run_goes_on_with_the_threads_that_it_began_with(start: Path, tmp_path: Path) -> None:
    run, pairs = settings_for(start, checkpoint_every_steps=1), make_pairs(8, seed=3)
    before, seen = torch.get_num_threads(), []

    def watched(steps: Any, **settings: Any) -> Any:
        seen.append(torch.get_num_threads())
        return quiet(steps, **settings)

    folder = RunFolder.create(tmp_path, "preference", run)
    try:
        for threads, resume in ((2, False), (1, True)):
            torch.set_num_threads(threads)
            train_preference(run, pairs, folder, resume=resume, progress=watched)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_pairs_on_disk_train_to_the_same_numbers(start: Path, tmp_path: Path) -> None:
    pairs = make_pairs(12, seed=4)
    same = pairs[3].model_copy(update={"rejected": pairs[3].chosen})
    given = [*pairs, same]
    run = settings_for(start, red_team_weight=0.5, grade_probabilities=(0.9,))
    in_memory, usual = train(run, given, tmp_path / "memory", held_out=pairs[:4])
    on_disk, other = train(run, PairFile(given, tmp_path), tmp_path / "disk", held_out=PairFile(pairs[:4], tmp_path))
    assert other.metrics() == usual.metrics()
    assert on_disk[2:] == in_memory[2:]


def test_killed_run_resumes_to_the_same_numbers(start: Path, tmp_path: Path) -> None:
    run = settings_for(start, checkpoint_every_steps=5)
    pairs = make_pairs(80, seed=5)
    _, whole = train(run, pairs, tmp_path / "whole")
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch
        torch.set_num_threads({torch.get_num_threads()})
        from test_train_preference import *

        def slow(steps, **settings):
            bar = quiet(steps, **settings)
            bar.set_postfix = lambda **values: time.sleep(0.05)
            return bar

        run = settings_for(Path({str(start)!r}), checkpoint_every_steps=5)
        folder = RunFolder.create(Path({str(tmp_path / "killed")!r}), "preference", run)
        train_preference(run, make_pairs(80, seed=5), folder, progress=slow)
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONWARNINGS": "ignore"})
    folder = RunFolder(tmp_path / "killed" / whole.path.name)
    try:
        while len(folder.metrics()) < 7:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(folder.metrics()) < 20
    assert not (folder.path / "model").exists()
    _, resumed = train(run, pairs, tmp_path / "killed", resume=True)
    assert resumed.metrics() == whole.metrics()
    assert len(resumed.metrics()) == 20  # 160 pairs in steps of 8


def test_a_pm_is_a_start_too(start: Path, tmp_path: Path) -> None:
    first, _ = train(settings_for(start), make_pairs(8, seed=6), tmp_path)
    _, folder = train(settings_for(first.path), make_pairs(8, seed=6), tmp_path)
    begun, went_on = start_model(settings_for(start)), start_model(settings_for(first.path))
    assert torch.equal(went_on.model.score.weight, first.model.model.score.weight)
    assert not torch.equal(went_on.model.score.weight, begun.model.score.weight)
    assert len(folder.metrics()) == 2


def test_start_scale_multiplies_the_head_of_a_pm(start: Path, tmp_path: Path) -> None:
    first, _ = train(settings_for(start), make_pairs(8, seed=6), tmp_path)
    plain, scaled = (start_model(settings_for(first.path, start_scale=scale)) for scale in (1.0, 0.25))
    assert torch.equal(scaled.model.score.weight, 0.25 * plain.model.score.weight)


def test_start_share_writes_weights_between_start_and_end(start: Path, tmp_path: Path) -> None:
    pairs = make_pairs(8, seed=1)
    ended, _ = train(settings_for(start), pairs, tmp_path)
    blended, _ = train(settings_for(start, start_share=0.25), pairs, tmp_path)
    began = start_model(settings_for(start)).model.state_dict()
    for name, end in ended.model.model.state_dict().items():
        between = 0.25 * began[name] + 0.75 * end
        torch.testing.assert_close(blended.model.model.state_dict()[name], between, rtol=1e-5, atol=1e-7)


def test_drops_are_counted(start: Path, tmp_path: Path) -> None:
    pairs = make_pairs(4, seed=7)
    identical = pairs[0].model_copy(update={"rejected": pairs[0].chosen})
    long = pairs[1].model_copy(update={"rejected": "river " * 200})
    nested = make_pairs(1, seed=8, turns=6)
    run = settings_for(start, max_context_tokens=60)
    blank = pairs[2].model_copy(update={"rejected": " \n"})
    result, folder = train(run, [*pairs, identical, blank, long, *nested], tmp_path)
    assert result.dropped_identical_pairs == 1
    assert result.dropped_blank_pairs == 1
    assert result.dropped_long_pairs == 1
    assert result.dropped_turns > 0
    assert result.pairs == len(pairs) + len(nested)
    assert sum(row["preference/pairs"] for row in folder.metrics()) == result.pairs


def test_data_without_a_lesson_is_refused(start: Path, tmp_path: Path) -> None:
    pairs = make_pairs(2, seed=9)
    with pytest.raises(DataError, match="no pairs"):
        train(settings_for(start), [], tmp_path / "none")
    same = [pair.model_copy(update={"rejected": pair.chosen}) for pair in pairs]
    with pytest.raises(DataError, match="same text on both sides"):
        train(settings_for(start), same, tmp_path / "same")
    blank = [pair.model_copy(update={"rejected": ""}) for pair in pairs]
    with pytest.raises(DataError, match="All 4 pairs have an empty side"):
        train(settings_for(start), blank, tmp_path / "blank")
    with pytest.raises(DataError, match="max_context_tokens = 8"):
        train(settings_for(start, max_context_tokens=8), pairs, tmp_path / "long")


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(start: Path, tmp_path: Path) -> None:
    run = settings_for(start, checkpoint_every_steps=1)
    pairs = make_pairs(8, seed=10)
    folder = RunFolder.create(tmp_path, "preference", run)

    class Breaking(tqdm):
        def __iter__(self) -> Any:
            for step in super().__iter__():
                if step == 1:  # the checkpoint of the first is written
                    norm = next(p for n, p in model.model.named_parameters() if n.endswith("norm.weight"))
                    norm.data.fill_(float("nan"))
                yield step

    model = start_model(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefloop.train.preference.start_model", lambda _: model)
        with pytest.raises(TrainingError, match=r"Step 2 has loss nan .*step-00000001"):
            train_preference(run, pairs, folder, progress=lambda s, **k: Breaking(s, **k, disable=True))
    assert [row["step"] for row in folder.metrics()] == [1]


def test_plan_takes_every_pair_once_an_epoch_and_keeps_conversations_together(start: Path) -> None:
    from prefloop.train.preference import StepPlan

    pairs = make_pairs(7, seed=11, turns=3)
    plan = StepPlan(pairs, settings_for(start, pairs_per_step=6, epochs=2))
    assert len(plan) == 8  # ceil(21 / 6) = 4 an epoch
    for epoch in (0, 1):
        steps = [plan.step(4 * epoch + place) for place in range(4)]
        assert sorted(map(len, steps)) == [5, 5, 5, 6]
        order = [pair.conversation_id for step in steps for pair in step]
        assert sorted(order) == sorted(pair.conversation_id for pair in pairs)
        assert sum(left != right for left, right in pairwise(order)) == 6
    assert plan.step(0) != plan.step(4)


def test_settings_are_checked(start: Path) -> None:
    with pytest.raises(ValidationError):
        settings_for(start, label_smoothing=0.5)


def test_an_adapter_learns_is_saved_and_resumes_to_the_same_numbers(start: Path, tmp_path: Path) -> None:
    run = settings_for(start, lora_rank=4, learning_rate=1e-2, checkpoint_every_steps=10)
    pairs, held_out = make_pairs(100, seed=1), make_pairs(20, seed=2)
    result, folder = train(run, pairs, tmp_path, held_out=held_out)
    assert folder.metrics()[-1]["preference/held_out_accuracy"] >= 0.9
    assert not (result.path / "model.safetensors").exists()
    conversations = [[*pair.context, Message(role="assistant", text=pair.chosen)] for pair in held_out]
    again = PreferenceModel.load(result.path)
    assert again.score(conversations) == result.model.score(conversations)
    assert again.model.config.std > 0
    base = load_language_model(start).model.state_dict()
    for name, value in result.model.model.state_dict().items():
        if name.replace(".base_layer", "") in base:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name  # the base is what it was
    checkpoint = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    assert all("lora" in name or "score" in name for name in checkpoint.part("model"))

    class Stop(Exception): ...

    class Stopping(tqdm):
        def set_postfix(self, *arguments: Any, **more: Any) -> None:
            super().set_postfix(*arguments, **more)
            if self.n >= 15:
                raise Stop

    broken = RunFolder.create(tmp_path / "parts", "preference", run)
    with pytest.raises(Stop):
        train_preference(run, pairs, broken, held_out, progress=lambda s, **k: Stopping(s, **k, mininterval=0))
    resumed, broken = train(run, pairs, tmp_path / "parts", resume=True, held_out=held_out)
    assert broken.metrics() == folder.metrics()
    assert resumed.model.score(conversations) == result.model.score(conversations)
    with pytest.raises(ConfigError, match="lora_rank goes with causal models"):
        start_model(settings_for(start, lora_rank=4, start_share=0.5))
