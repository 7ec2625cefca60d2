"""What a preference model is compared with: words, the agreement of workers, slices, groups, other models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.evals import (
    TfidfRegression,
    evaluate_preference,
    worker_agreement,
    write_preference_reports,
)
from prefloop.evals.slices import slice_names, slice_order
from prefloop.schema import Message, Mode, PreferencePair, Tranche
from prefloop.store.formats import read_comparisons


class Numbers:
    """Scores a reply by the number that it is written as."""

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [float(conversation[-1].text) for conversation in conversations]


def judged(comparison: str, side: str, worker: str | None, conversation: str = "", **fields: object) -> PreferencePair:
    """Side a is the reply '2', side b the reply '1'."""
    chosen, rejected = ("2", "1") if side == "a" else ("1", "2")
    return PreferencePair(
        context=(Message(role="user", text="which"),),
        chosen=chosen,
        rejected=rejected,
        comparison_id=comparison,
        conversation_id=conversation or comparison,
        chosen_side=side,
        worker_id=worker,
        **fields,
    )


def worded(count: int, seed: int) -> list[PreferencePair]:
    """The better reply has 'please' nine times in ten; other words are drawn alike."""
    draw = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        good, bad = (" ".join(draw.choice(["red", "blue", "old", "new"], size=4)) for _ in range(2))
        good, bad = (f"{good} please", bad) if draw.random() < 0.9 else (good, f"{bad} please")
        pairs.append(PreferencePair(context=(), chosen=good, rejected=bad, conversation_id=str(number)))
    return pairs


def test_regression_on_words_finds_the_word() -> None:
    regression = TfidfRegression(worded(200, seed=1))
    please, without = regression.score([[Message(role="assistant", text=text)] for text in ("red please", "red blue")])
    assert please > without + 1
    judged_alike = worded(300, seed=2)
    evaluation = evaluate_preference(
        regression, judged_alike, choice_probabilities=[0.9] * 300, words={None: regression}
    )
    assert evaluation.accuracy.value == pytest.approx(0.9, abs=0.05)
    assert evaluation.words == evaluation.accuracy
    assert evaluation.above_words is not None
    assert evaluation.above_words.value == 0.0
    assert {row.metric for row in evaluation.results("m")} >= {"preference_eval/words", "preference_eval/above_words"}


def test_each_mode_has_its_own_words() -> None:
    """What helpful comparisons like, red-team ones dislike: one regression of both would be near chance."""
    helpful = [pair.model_copy(update={"mode": Mode.HELPFUL}) for pair in worded(200, seed=1)]
    red_team = [pair.swap().model_copy(update={"mode": Mode.RED_TEAM}) for pair in worded(200, seed=2)]
    both = helpful + red_team
    words = {
        None: TfidfRegression(both),
        Mode.HELPFUL: TfidfRegression(helpful),
        Mode.RED_TEAM: TfidfRegression(red_team),
    }
    pooled = evaluate_preference(words[None], both, words={None: words[None]}).words
    apart = evaluate_preference(words[None], both, words=words).words
    assert pooled is not None
    assert apart is not None
    assert pooled.value == pytest.approx(0.5, abs=0.1)
    assert apart.value == pytest.approx(0.9, abs=0.05)


def test_swapping_the_training_pairs_turns_the_regression_round() -> None:
    pairs = worded(60, seed=3)
    texts = [[Message(role="assistant", text=pair.chosen)] for pair in pairs]
    plain, turned = TfidfRegression(pairs).score(texts), TfidfRegression([one.swap() for one in pairs]).score(texts)
    assert plain == pytest.approx([-value for value in turned], abs=1e-4)


def test_regression_needs_words() -> None:
    with pytest.raises(DataError, match="needs 2 training pairs, not 1"):
        TfidfRegression(worded(1, seed=1))
    with pytest.raises(DataError, match="No word stands in two"):
        TfidfRegression([_only(1), _only(2)])


def _only(number: int) -> PreferencePair:
    return PreferencePair(context=(), chosen=f"word{number}", rejected=f"other{number}")


def test_agreement_by_hand() -> None:
    pairs = [
        *(judged("one", side, worker) for side, worker in (("a", "x"), ("a", "y"))),  # agree
        *(judged("two", side, worker) for side, worker in (("b", "x"), ("b", "y"))),  # agree
        *(judged("three", side, worker) for side, worker in (("a", "x"), ("b", "y"), ("a", "z"))),  # 1 of 3 pairs
        judged("four", "a", "x"),  # alone
        judged("four", "b", None),  # nobody known
    ]
    agreement = worker_agreement(pairs, [pair.conversation_id for pair in pairs])
    assert agreement.two_workers.value == pytest.approx(3 / 5)
    assert agreement.two_workers.n == 5
    assert agreement.ceiling.value == pytest.approx((1 + 0.2**0.5) / 2)  # 2 * 3/5 - 1 = 0.2
    evaluation = evaluate_preference(Numbers(), pairs)
    assert evaluation.agreement is not None
    assert evaluation.agreement.model is not None
    # '2' scores above '1', so side a is predicted: right in 2 + 0 + 2 of the 7 judgments of one, two and three
    assert (evaluation.agreement.model.value, evaluation.agreement.model.n) == (pytest.approx(4 / 7), 7)


def test_no_scorer_beats_the_ceiling_of_known_workers() -> None:
    """Workers that prefer side a with known chances: the best accuracy lies between agreement and ceiling."""
    draw = np.random.default_rng(5)
    chances = draw.uniform(0, 1, size=4000)
    sides = draw.random((4000, 2)) < chances[:, None]
    pairs = [
        judged(str(number), "a" if side else "b", worker)
        for number, both in enumerate(sides)
        for worker, side in zip("xy", both, strict=True)
    ]
    agreement = worker_agreement(pairs, [pair.comparison_id for pair in pairs])
    best = np.maximum(chances, 1 - chances).mean()
    assert agreement.two_workers.value < best < agreement.ceiling.value
    assert agreement.two_workers.value == pytest.approx(2 / 3, abs=0.03)  # 1 - 2 E[p(1-p)] = 1 - 2/6


def test_below_chance_agreement_has_a_ceiling_of_one_half() -> None:
    pairs = [judged("one", "a", "x"), judged("one", "b", "y"), judged("two", "b", "x"), judged("two", "a", "y")]
    assert worker_agreement(pairs, ["1", "1", "2", "2"]).ceiling.value == 0.5


def test_unknown_agreement_says_why() -> None:
    with pytest.raises(DataError, match="names its worker"):
        worker_agreement([judged("one", "a", None)], ["1"])
    with pytest.raises(DataError, match="judged by two workers"):
        worker_agreement([judged("one", "a", "x"), judged("two", "a", "y")], ["1", "2"])


def test_slices_by_worker_keep_the_busiest() -> None:
    pairs = [judged(f"{worker}{n}", "a", f"w{worker:02}") for worker in range(22) for n in range(22 - worker)]
    pairs.append(judged("nobody", "a", None))
    names = slice_names(pairs)["worker"]
    order = slice_order("worker", names)
    assert order[:2] == ["w00", "w01"]
    assert order[-2:] == ["other workers", "no worker known"]
    assert len(order) == 22  # twenty, the rest, nobody
    assert names.count("other workers") == 2 + 1  # w20 and w21


def test_groups_are_slices_of_their_own() -> None:
    pairs = [judged("one", "a", None), judged("two", "b", None)]
    evaluation = evaluate_preference(Numbers(), pairs, groups=["honest", "harmless"])
    assert {name: value.value for name, value in evaluation.slices["group"].items()} == {"harmless": 0.0, "honest": 1.0}
    with pytest.raises(DataError, match="1 groups do not fit 2 pairs"):
        evaluate_preference(Numbers(), pairs, groups=["honest"])


def test_comparisons_from_a_file(tmp_path: Path) -> None:
    rows = [
        {"prompt": "which", "chosen": "2", "rejected": "1", "group": "honest"},
        {"prompt": [{"role": "user", "content": "which"}], "chosen": [_reply("1")], "rejected": [_reply("2")]},
        {"prompt": "which", "chosen": "1", "rejected": "1"},
    ]
    file = tmp_path / "hhh.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = read_comparisons(file)
    assert read.groups == ["honest", "no group"]
    assert read.skipped == {"identical sides": 1}
    assert [pair.comparison_id for pair in read.pairs] == ["hhh.jsonl row 1", "hhh.jsonl row 2"]
    assert evaluate_preference(Numbers(), read.pairs, groups=read.groups).accuracy.value == 0.5
    file.write_text(json.dumps(rows[2]))
    with pytest.raises(DataError, match=r"no usable comparison \(1 identical sides\)"):
        read_comparisons(file)
    file.write_text(json.dumps(rows[0] | {"group": 3}))
    with pytest.raises(DataError, match="line 1 field 'group' is a number"):
        read_comparisons(file)
    file.write_text('{"prompt": "Q", "chosen": "a", "rejected": "b", "group": "\\ud83d"}')
    with pytest.raises(DataError, match="line 1 field 'group' holds half of a surrogate pair"):
        read_comparisons(file)


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_page_of_several_models_has_the_transfer_matrix(tmp_path: Path) -> None:
    class Contrary(Numbers):
        def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
            return [-value for value in super().score(conversations)]

    pairs = [judged(f"h{n}", "a", None) for n in range(6)]
    pairs += [judged(f"r{n}", "b", None, mode=Mode.RED_TEAM, tranche=Tranche.ONLINE) for n in range(4)]
    evaluations = {"kind": evaluate_preference(Numbers(), pairs), "sharp": evaluate_preference(Contrary(), pairs)}
    path = write_preference_reports(evaluations, tmp_path / "page.html", "held-out", ["Mind the gap."])
    sections = {one["title"]: one["blocks"] for one in json.loads(path.with_suffix(".json").read_text())["sections"]}
    [matrix] = [block for block in sections["Transfer"] if block["kind"] == "table"]
    assert matrix["columns"] == ["model", "all", "helpful base", "red_team online"]
    assert [[row[0], *(cell["value"] for cell in row[1:])] for row in matrix["rows"]] == [
        ["kind", 0.6, 1.0, 0.0],
        ["sharp", 0.4, 0.0, 1.0],
    ]
    assert {"kind: Accuracy", "sharp: Worst errors"} <= sections.keys()
    assert "Mind the gap." in path.read_text()
