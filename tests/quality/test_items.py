"""Tranches, leaks, texts and scores: faults planted in a small store, and the real pairs."""

from __future__ import annotations

import gzip
import json
import random
from itertools import cycle
from pathlib import Path

import pytest
from workforce import Person, Plan, fill

from prefloop.config import QualitySettings
from prefloop.quality import QualityReport, quality_report, write_html
from prefloop.quality.texts import TurnSample
from prefloop.quality.turns import check_turns, masked
from prefloop.schema import Mode, Score, Snapshot, Tranche, split_place
from prefloop.store import Store
from prefloop.store.formats import import_file

_WORDS = ["river", "stone", "bread", "music", "engine", "garden", "winter", "bottle", "letter", "bridge", "yellow"]
_WORDS += ["cousin", "market", "pepper"]
REAL = {
    "harmless-base": (Mode.RED_TEAM, Tranche.BASE, 0.4425),
    "helpful-base": (Mode.HELPFUL, Tranche.BASE, 0.5855),
    "helpful-online": (Mode.HELPFUL, Tranche.ONLINE, 0.4264),
    "helpful-rejection-sampled": (Mode.HELPFUL, Tranche.REJECTION_SAMPLED, 0.5595),
}


def _file(folder: Path, name: str, openings: list[str], seed: int) -> Path:
    chance = random.Random(seed)
    rows = []
    for opening in openings:
        replies = [" ".join(chance.choices(_WORDS, k=chance.randint(5, 20))) for _ in range(2)]
        both = {
            side: f"\n\nHuman: {opening}\n\nAssistant: {reply}"
            for side, reply in zip(("chosen", "rejected"), replies, strict=True)
        }
        rows.append(json.dumps(both) + "\n")
    file = folder / f"{name}.jsonl"
    file.write_text("".join(rows), encoding="utf-8")
    return file


def _openings(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(3, 8))) for _ in range(9 * count)]
    return [" ".join(words[place : place + 9]) for place in range(0, len(words), 9)]


def test_planted_leaks_between_tranches_are_found(one_store: Store, tmp_path: Path) -> None:
    base, online = _openings(120, 1), _openings(80, 2)
    equal = [text.upper() + "!" for text in base[:5]]  # equal once case and punctuation are off
    near = [text + " too" for text in base[5:12]]
    import_file(one_store, "hh-rlhf", _file(tmp_path, "base", base, 3), "base", "helpful")
    import_file(one_store, "hh-rlhf", _file(tmp_path, "online", online + equal + near, 4), "online", "helpful")
    (shared,) = quality_report(one_store).items.leaks.tranches
    assert (shared.first, shared.second) == ("helpful base", "helpful online")
    assert (shared.exact, shared.near) == (5, 7)
    assert shared.share.interval is not None
    assert shared.share.interval.value == pytest.approx(12 / 92)
    assert shared.examples[0][2] > 0.8
    for number in range(7):
        assert any(near[number] in example or base[5 + number] in example for example in shared.examples)


def test_openings_that_part_at_the_split_are_leaks_and_warned_of(one_store: Store, tmp_path: Path) -> None:
    limits = QualitySettings(held_out_share=0.2, gate=("leaks",))
    pool = _openings(600, 5)
    training = [text for text in pool if split_place(text) < 0.8][:160]
    held_out = [text for text in pool if split_place(text) >= 0.8][:30]
    copies = [copy for text in training for copy in (text + "?", text + " please") if split_place(copy) >= 0.8][:10]
    file = _file(tmp_path, "pairs", training + held_out + copies, 6)
    import_file(one_store, "hh-rlhf", file, "base", "helpful")
    report = quality_report(one_store, limits=limits)
    split = report.items.leaks.split
    assert split is not None
    assert split.share.interval is not None
    assert split.share.interval.value == pytest.approx(10 / 40)
    assert split.exact + split.near == 10
    assert any("held-out openings" in sentence for sentence in report.gate)
    assert quality_report(one_store, limits=QualitySettings(held_out_share=0.2)).gate == ()


def test_diversity_is_compared_at_equal_size(one_store: Store, tmp_path: Path) -> None:
    varied, alike = _openings(300, 7), [f"{a} {b} {c}" for a in _WORDS for b in _WORDS for c in _WORDS[:2]][:60]
    import_file(one_store, "hh-rlhf", _file(tmp_path, "varied", varied, 8), "base", "helpful")
    import_file(one_store, "hh-rlhf", _file(tmp_path, "alike", alike, 9), "online", "helpful")
    items = quality_report(one_store).items
    assert items.compared_openings == 30
    words = {part.name: part.words.interval for part in items.tranches}
    first, second = words["helpful base"], words["helpful online"]
    assert first is not None
    assert second is not None
    assert second.high < 20 < first.low
    assert second.n == first.n == 30


def test_topics_are_found_again(one_store: Store, tmp_path: Path) -> None:
    chance = random.Random(0)
    subjects = {
        "bread": ["dough", "yeast", "flour", "oven", "crust", "knead"],
        "cars": ["engine", "brake", "clutch", "wheel", "motor", "gear"],
        "stars": ["planet", "orbit", "comet", "galaxy", "moon", "telescope"],
    }
    openings = [" ".join(chance.sample(words, 4)) for words in subjects.values() for _ in range(40)]
    import_file(one_store, "hh-rlhf", _file(tmp_path, "topics", sorted(set(openings)), 1), "base", "helpful")
    topics = quality_report(one_store).items.topics
    assert len(topics) >= 2
    for topic in topics:  # no topic mixes two subjects
        assert sum(bool(set(topic.words) & set(words)) for words in subjects.values()) == 1
        assert topic.examples
    assert sum(topic.share.value for topic in topics) == pytest.approx(1.0)


def test_personal_data_and_languages() -> None:
    texts = [
        "Write to jane.doe@example.com or call +44 20 7946 0958 about the garden party next week",
        "Mi madre quiere hacer pan en casa pero no tiene levadura, ¿qué puede usar?",
        "My card is 4111 1111 1111 1111 and the order number is 4111 1111 1111 1112 as far as I remember",
        "Pay to GB82 WEST 1234 5698 7654 32 from the server at 192.168.0.1 and not at 999.1.1.1, please do",
        "hi",
        "ok",
    ]
    sample = TurnSample()
    for number, text in enumerate(texts):
        sample.add(number, number, text)
        sample.add(number, number, text)  # the same turn of the same path counts once
    found = check_turns(sample)
    assert found is not None
    assert found.turns_checked == 6
    assert {one.code: one.share.value for one in found.languages} == pytest.approx(
        {"en": 3 / 6, "es": 1 / 6, "unsure": 2 / 6}
    )
    personal = {one.kind: one for one in found.personal}
    assert set(personal) == {"e-mail", "telephone", "payment card", "IBAN", "IP address"}
    assert personal["payment card"].examples == ("4*** **** **** ***1",)  # the order number fails its checksum
    assert personal["IP address"].examples == ("1**.***.*.1",)
    assert masked("jane.doe@example.com") == "j***.***@*******.**m"


def test_a_sample_of_turns_does_not_depend_on_their_order() -> None:
    samples = []
    for order in (1, -1):
        sample = TurnSample(most=20)
        for path in list(range(1000))[::order]:
            sample.add((path * 7919) % 100_003, path, f"text {path}")
        samples.append(set(sample.turns()))
    assert samples[0] == samples[1]
    assert len(samples[0]) == 20


def _scored(store: Store, tmp_path: Path) -> Snapshot:
    """Base and online replies with scores that agree with the labels in three of four, online ones 2 higher."""
    model = store.add_snapshot(Snapshot(name="judge", hash="0", path="judge", kind="preference_model"))
    for name, tranche, seed in (("base", "base", 1), ("online", "online", 2)):
        import_file(store, "hh-rlhf", _file(tmp_path, name, _openings(200, seed), seed), tranche, "helpful")
    chance, scores, rightly = random.Random(0), [], cycle([True, True, True, False])
    for pair in store.pairs():
        middle = chance.gauss(0, 1) + 2.0 * (pair.tranche is Tranche.ONLINE)
        gap = 0.4 if next(rightly) else -0.4
        for id, value in ((pair.chosen_response_id, middle + gap), (pair.rejected_response_id, middle - gap)):
            assert id is not None
            scores.append(Score(response_id=id, preference_model_id=model.id, value=value))
    store.add_scores(scores)
    return model


def test_scores_by_tranche_fill_the_upper_tail(one_store: Store, tmp_path: Path) -> None:
    model = _scored(one_store, tmp_path)
    (scores,) = quality_report(one_store).items.scores
    assert (scores.model_id, scores.name, scores.tail_of) == (model.id, "judge", "helpful base")
    base, online = scores.tranches
    for part in (base, online):
        assert part.accuracy.interval is not None
        assert part.accuracy.interval.value == 0.75
        assert sum(part.bins) == pytest.approx(1.0)
        assert part.quantiles.n == 400
    assert base.tail.interval is not None
    assert online.tail.interval is not None
    assert base.tail.interval.value == pytest.approx(0.05, abs=0.003)  # by definition
    assert online.tail.interval.low > 0.4  # 2 higher, where the tail begins some 1.7 up
    assert "names its worker" in scores.agreement.unknown


def test_what_no_rows_tell_is_said(one_store: Store) -> None:
    fill(one_store, Plan([Person()], conversations=4))
    items = quality_report(one_store).items
    assert items.scores == ()
    assert "too few for topics" in items.topics_unknown
    assert "No three" in items.cycles_unknown
    (part,) = items.tranches
    assert "one worker's" in part.label_noise.unknown
    assert part.words.interval is None


@pytest.fixture(scope="module")
def real_report(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> QualityReport:
    """The report on all four real files in one store."""
    folder = tmp_path_factory.mktemp("real")
    with Store.open(f"sqlite:///{folder / 'real.db'}") as store:
        for name, (mode, tranche, _) in REAL.items():
            import_file(store, "hh-rlhf", data_root / "hh-rlhf" / f"{name}.jsonl.gz", tranche, mode)
        report = quality_report(store)
    write_html(report, folder / "quality.html")
    html = (folder / "quality.html").read_text(encoding="utf-8")
    for heading in ("Tranches", "Leaks", "Topics", "Languages and personal data"):
        assert f"<h2>{heading}</h2>" in html
    return report


@pytest.mark.parametrize("name", REAL)
def test_the_longer_reply_wins_as_published_with_the_real_pairs(data_root: Path, name: str) -> None:
    lines = gzip.decompress((data_root / "hh-rlhf" / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / len(rows)
    assert longer == pytest.approx(REAL[name][2], abs=5e-5)


def test_the_real_tranches_are_told_apart(real_report: QualityReport) -> None:
    parts = {(part.mode, part.tranche): part for part in real_report.items.tranches}
    usable = {"harmless-base": 1694, "helpful-base": 1724, "helpful-online": 862, "helpful-rejection-sampled": 2015}
    for name, (mode, tranche, longer_wins) in REAL.items():
        part = parts[mode, tranche]
        assert part.comparisons == usable[name]
        assert part.longer_wins.interval is not None
        # over replies of usable pairs instead of whole texts of all rows
        assert part.longer_wins.interval.value == pytest.approx(longer_wins, abs=0.015)
        assert part.longer_wins.interval.low < longer_wins < part.longer_wins.interval.high
        assert part.agreement.interval is None  # one label a pair
        assert part.words.interval is not None
        assert max(part.turns) > 4
    assert len(real_report.items.topics) == 12


def test_real_leaks_across_tranches(real_report: QualityReport) -> None:
    leaks = real_report.items.leaks
    found = {(side.first, side.second): side for side in leaks.tranches}
    both = found["helpful base", "helpful rejection sampled"]
    assert both.exact >= 3
    assert both.near >= 20  # "I like to host guests ..." with another dish, for one
    assert leaks.split is not None
    assert leaks.split.near > 0
    assert leaks.by_row.interval is not None
    assert 0.05 < leaks.by_row.interval.low < leaks.by_row.interval.high < 0.15
    assert real_report.items.texts is not None
    assert real_report.items.texts.languages[0].code == "en"
