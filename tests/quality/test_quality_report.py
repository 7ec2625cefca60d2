"""The quality report on a small store by hand: counts, agreement, retest, biases, and what cannot be known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from workforce import BEGIN, Person, Plan, fill

from prefloop.errors import NotFoundError
from prefloop.quality import Measured, QualityReport, quality_report, write_html
from prefloop.sandbox.judges import Traits
from prefloop.schema import Comparison, Conversation, Judgment, Mode, Response, Study, Tranche, TreeMessage, Worker
from prefloop.store import Store
from prefloop.store.formats import import_file


class _Desk:
    """Writes conversations and judgments one by one, the way a page does."""

    def __init__(self, store: Store, workers: int = 2) -> None:
        self.store = store
        self.workers = [store.add_worker(Worker(pseudonym=f"worker-{i}")) for i in range(workers)]

    def compare(self, opening: str, texts: tuple[str, str], mode: Mode = Mode.HELPFUL, study: str | None = None) -> str:
        """A conversation with one comparison, side B complete a second before side A."""
        conversation = self.store.add_conversation(
            Conversation(mode=mode, worker_id=self.workers[0].id, study_id=study)
        )
        message = self.store.add_message(TreeMessage(conversation_id=conversation.id, role="user", text=opening))
        comparison = self.store.add_comparison(
            Comparison(
                conversation_id=conversation.id,
                context_message_id=message.id,
                turn=1,
                response_a=Response(),
                response_b=Response(),
                mode=mode,
                tranche=Tranche.BASE,
                study_id=study,
                worker_id=self.workers[0].id,
            )
        )
        for response, text, seconds in (
            (comparison.response_a, texts[0], 2),
            (comparison.response_b, texts[1], 1),
        ):
            done_at = BEGIN + timedelta(seconds=seconds)
            self.store.start_response(response.id)
            self.store.finish_response(response.id, text, 3, "stop", BEGIN, done_at)
        return comparison.id

    def judge(
        self, comparison_id: str, worker: int, grade: int, seconds: float = 8.0, revises: str | None = None
    ) -> str:
        mode = self.store.comparison(comparison_id).mode
        clicked = "a" if grade <= 4 else "b"
        other = "b" if grade <= 4 else "a"
        judgment = Judgment(
            comparison_id=comparison_id,
            worker_id=self.workers[worker].id,
            question="more_harmful" if mode is Mode.RED_TEAM else "more_helpful",
            grade=grade,
            clicked=clicked,
            preferred=other if mode is Mode.RED_TEAM else clicked,
            decided_at=BEGIN + timedelta(seconds=2 + seconds),
            revises=revises,
        )
        return self.store.add_judgment(judgment).id


def _value(part: Measured) -> float:
    assert part.interval is not None, part.unknown
    return part.interval.value


def _sentences(report: QualityReport, level: str) -> str:
    return " ".join(finding.sentence for finding in report.verdict if finding.level == level)


def _numbers(facts: object) -> Sequence[float]:
    """Every value of every interval in a JSON dump."""
    if isinstance(facts, dict):
        here = [facts["value"]] if {"value", "low", "high"} <= facts.keys() else []
        return here + [number for part in facts.values() for number in _numbers(part)]
    return [number for part in facts for number in _numbers(part)] if isinstance(facts, list) else []


def test_counts_and_shares_by_hand(store: Store) -> None:
    desk = _Desk(store)
    for part in "abc":  # one scene, three times with other words: shares are those of one, counts three times as many
        first, second, third = (desk.compare(f"Opening {part}{i}", ("long reply", "short")) for i in range(3))
        desk.compare(f"Not judged {part}", ("x", "y"))
        fourth = desk.compare(f"Red {part}", ("mean", "nasty words"), Mode.RED_TEAM)
        store.void_comparison(desk.compare(f"Broken {part}", ("x", "y")), "the model server failed")
        desk.judge(first, 0, 1)
        desk.judge(first, 1, 2)
        mistake = desk.judge(second, 0, 1)
        desk.judge(second, 0, 5, revises=mistake)
        desk.judge(second, 1, 3)
        desk.judge(third, 0, 8, seconds=2.0)
        desk.judge(fourth, 0, 7, seconds=32.0)
    report = quality_report(store)
    counts = report.counts
    assert counts.comparisons == {"open": 3, "judged": 12, "void": 3}
    assert [(reason.reason, reason.comparisons) for reason in counts.void_reasons] == [("the model server failed", 3)]
    found = (counts.judgments, counts.corrected, counts.imported, counts.workers, counts.conversations)
    assert found == (18, 3, 0, 2, 18)
    assert counts.by_tranche == {Tranche.BASE: 18, Tranche.REJECTION_SAMPLED: 0, Tranche.ONLINE: 0}
    assert counts.by_mode == {Mode.HELPFUL: 15, Mode.RED_TEAM: 3}
    assert counts.by_grade == {1: 3, 2: 3, 3: 3, 4: 0, 5: 3, 6: 0, 7: 3, 8: 3}
    assert _value(counts.void_share) == pytest.approx(1 / 5)  # of four judged and one void
    assert _value(counts.weakest_share) == pytest.approx(1 / 6)  # the correction to grade 5
    # agreement: of each scene the first comparison a a, the second b a: one of two pairs
    assert report.agreement.comparisons == 6
    assert _value(report.agreement.raw) == 0.5
    # coincidences aa 6, ab 3, ba 3, n 12, n_a 9, n_b 3: observed 6/12, expected 2*9*3/(12*11) = 9/22: 1 - 11/9
    assert _value(report.agreement.alpha_side) == pytest.approx(-2 / 9)
    # without the weakest only the first of each scene is left, a a: one answer, and nothing is known
    assert report.agreement_without_weakest.comparisons == 3
    assert "All 6 judgments" in report.agreement_without_weakest.raw.unknown
    # clicks: a a b a b b -> 3 of 6 on A; B is complete first, so the rest: 3 of 6
    assert _value(report.side_a) == 0.5
    assert _value(report.finished_first) == 0.5
    # helpful: the longer (A) preferred in 3 of 5; red team: clicked B, so the shorter (A) is preferred: 0 of 1
    assert _value(report.length[Mode.HELPFUL].longer_wins) == pytest.approx(3 / 5)
    assert "from 3 conversations; 6 are needed" in report.length[Mode.RED_TEAM].longer_wins.unknown
    # geometric mean of 8 8 8 8 2 32: (8^4 * 64)^(1/6) = 2^(18/6) = 8
    assert _value(report.decision_seconds) == pytest.approx(8.0, abs=1e-3)  # SQLite's times are good to a tenth of a ms


def test_retest_by_hand(one_store: Store) -> None:
    desk = _Desk(one_store)
    for opening, again in (("one", 8), ("two", 1), ("three", 7), ("four", 8), ("five", 2), ("six", 7)):
        desk.judge(desk.compare(opening, ("first reply", "second reply")), 0, 1)
        # the same pair with the sides swapped: a click on B is the same preference
        desk.judge(desk.compare(opening, ("second reply", "first reply")), 0, again)
    report = quality_report(one_store)
    assert _value(report.retest) == pytest.approx(2 / 3)
    assert report.retest.interval is not None
    assert report.retest.interval.n == 6
    assert _value(report.duplicates.repeated_openings) == 0.5  # six of twelve
    assert report.duplicates.most_repeated[:3] == (("one", 2), ("two", 2), ("three", 2))


def test_identical_responses_are_counted_and_kept_out_of_agreement(one_store: Store) -> None:
    desk = _Desk(one_store)
    for number in range(3):
        same = desk.compare(f"one {number}", ("same", "same"))
        other = desk.compare(f"two {number}", ("this", "that"))
        for worker, grade in ((0, 1), (1, 8)):
            desk.judge(same, worker, grade)
            desk.judge(other, worker, grade)
    report = quality_report(one_store)
    assert _value(report.duplicates.identical_responses) == 0.5
    assert report.agreement.comparisons == 3


def test_scope_is_a_mode_a_tranche_or_a_study(one_store: Store) -> None:
    desk = _Desk(one_store)
    study = one_store.add_study(Study(name="pilot", mode=Mode.RED_TEAM, tranche=Tranche.BASE))
    desk.judge(desk.compare("one", ("x", "yy")), 0, 1)
    desk.judge(desk.compare("two", ("x", "yy"), Mode.RED_TEAM, study.id), 0, 1)
    assert quality_report(one_store).counts.judgments == 2
    assert quality_report(one_store, mode=Mode.HELPFUL).counts.by_mode == {Mode.HELPFUL: 1, Mode.RED_TEAM: 0}
    assert quality_report(one_store, tranche=Tranche.ONLINE).counts.judgments == 0
    scoped = quality_report(one_store, study_id=study.id)
    assert (scoped.counts.judgments, scoped.scope) == (1, "study 'pilot'")
    with pytest.raises(NotFoundError):
        quality_report(one_store, study_id="no-such-study")


def test_nothing_to_report_is_said_and_no_number_is_printed(one_store: Store, tmp_path: Path) -> None:
    report = quality_report(one_store)
    assert [finding.level for finding in report.verdict] == ["unknown"]
    assert "no judgments" in report.verdict[0].sentence
    assert _numbers(report.model_dump(mode="json")) == []
    html = write_html(report, tmp_path / "quality.html").read_text(encoding="utf-8")
    assert "no judgments" in html
    assert "[" not in html.partition("<main>")[2]


def test_one_worker_has_no_agreement(one_store: Store) -> None:
    fill(one_store, Plan([Person()], conversations=10))
    report = quality_report(one_store)
    assert "one worker's" in report.agreement.raw.unknown
    assert report.agreement.alpha_side.interval is None
    assert "Agreement is not known" in _sentences(report, "unknown")
    assert report.workers[0].agreement.unknown == "Nobody else judged the same comparisons."


def test_no_overlap_has_no_agreement(one_store: Store) -> None:
    fill(one_store, Plan([Person(), Person()], conversations=10, overlap=0.0))
    assert "no comparison twice" in quality_report(one_store).agreement.alpha_grade.unknown


def test_all_grades_equal_have_no_alpha(one_store: Store) -> None:
    desk = _Desk(one_store)
    for i in range(6):
        comparison = desk.compare(f"opening {i}", ("one reply", "another"))
        desk.judge(comparison, 0, 1)
        desk.judge(comparison, 1, 1)
    report = quality_report(one_store)
    assert report.agreement.alpha_grade == report.agreement.alpha_side == report.agreement.raw
    # two workers who always click A agree whatever they read: nothing is known of agreement and noise
    unknown = [report.noise.typical, report.agreement.raw, *(week.agreement for week in report.drift.weeks)]
    unknown += [part for worker in report.workers for part in (worker.noise, worker.agreement)]
    for tranche in report.items.tranches:
        unknown += [tranche.agreement, tranche.label_noise, tranche.ceiling]
    assert len(unknown) == 10
    assert all("All 12 judgments" in part.unknown and part.interval is None for part in unknown)
    assert all(worker.weight is None and not worker.flags for worker in report.workers)


def test_one_conversation_gives_no_number(one_store: Store) -> None:
    fill(one_store, Plan([Person()], conversations=1))
    report = quality_report(one_store)
    assert _numbers(report.model_dump(mode="json")) == []
    assert "one conversation" in report.side_a.unknown


@pytest.mark.parametrize("conversations", [1, 2, 3, 12])
def test_every_number_in_the_dump_is_finite_with_interval_and_n(one_store: Store, conversations: int) -> None:
    fill(one_store, Plan([Person(), Person(Traits(careless=1.0))], conversations=conversations, identical=0.2))
    report = quality_report(one_store)
    text = json.dumps(report.model_dump(mode="json"), allow_nan=False)
    assert QualityReport.model_validate_json(text) == report
    assert all(math.isfinite(number) for number in _numbers(json.loads(text)))


def test_a_few_conversations_raise_no_alarm(one_store: Store) -> None:
    """Two workers who always disagree, on three conversations: resampling three says nothing of a fourth."""
    desk = _Desk(one_store)
    for number in range(3):
        comparison = desk.compare(f"opening {number}", ("one reply", "another"))
        desk.judge(comparison, 0, 2)
        desk.judge(comparison, 1, 7)
    report = quality_report(one_store)
    assert "All 3 observations come from 3 conversations; 6 are needed" in report.agreement.raw.unknown
    assert "come from 2 workers" in report.concentration.gini.unknown
    assert _sentences(report, "warning") == _sentences(report, "good") == ""
    assert all(finding.next_step for finding in report.verdict if finding.subject == "agreement")


def test_only_skips_are_said_with_their_reason(one_store: Store) -> None:
    desk = _Desk(one_store)
    for number in range(7):
        one_store.void_comparison(desk.compare(f"opening {number}", ("x", "y")), "skipped")
    report = quality_report(one_store)
    assert [finding.subject for finding in report.verdict] == ["void", "judgments"]
    assert report.counts.void_reasons[0].reason == "skipped"
    assert "no judgments to compare" in report.agreement.raw.unknown
    assert report.flag_rules == ()


def test_two_copies_of_a_reply_tell_nothing_of_agreement(one_store: Store) -> None:
    fill(one_store, Plan([Person(), Person()], conversations=8, overlap=1.0, identical=1.0, seed=1))
    report = quality_report(one_store)
    assert "two copies of one reply" in report.agreement.raw.unknown
    assert "who of them errs more is not known" in _sentences(report, "unknown")
    assert _sentences(report, "good") == ""


def test_imports_have_length_and_counts_and_no_position(one_store: Store, tmp_path: Path) -> None:
    lines = [
        {
            "chosen": f"\n\nHuman: question {i}\n\nAssistant: {'a much longer reply' if i < 7 else 'yes'} {i}",
            "rejected": f"\n\nHuman: question {i}\n\nAssistant: {'no' if i < 7 else 'a much longer reply'} {i}",
        }
        for i in range(10)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    import_file(one_store, "hh-rlhf", file)
    report = quality_report(one_store)
    assert (report.counts.judgments, report.counts.imported, report.counts.workers) == (10, 10, 0)
    assert _value(report.length[Mode.HELPFUL].longer_wins) == 0.7
    assert "page" in report.side_a.unknown
    assert "imports do not" in report.agreement.raw.unknown
    assert report.decision_seconds.interval is None
    assert report.workers == ()
    html = write_html(report, tmp_path / "quality.html").read_text(encoding="utf-8")
    assert "nothing is known of single workers" in html


def test_page_and_json_lie_side_by_side_and_agree(one_store: Store, tmp_path: Path) -> None:
    fill(one_store, Plan([Person(), Person(), Person(copies=0.7)], conversations=20))
    report = quality_report(one_store)
    path = write_html(report, tmp_path / "quality.html")
    assert QualityReport.model_validate_json((tmp_path / "quality.json").read_text(encoding="utf-8")) == report
    html = path.read_text(encoding="utf-8")
    for heading in ("Verdict", "What there is", "Agreement", "Position, speed and length", "Workers", "Repeated texts"):
        assert f"<h2>{heading}</h2>" in html
    assert "3 of 3 workers are simulated." in html
    assert html.index("<h2>Verdict</h2>") < html.index("<h2>What there is</h2>")


@pytest.mark.parametrize(
    ("file", "mode", "longer_wins"),
    [
        ("harmless-base", Mode.RED_TEAM, 0.4425),
        ("helpful-base", Mode.HELPFUL, 0.5855),
    ],
)
@pytest.mark.real_data
def test_real_pairs(one_store: Store, data_root: Path, file: str, mode: Mode, longer_wins: float) -> None:
    result = import_file(one_store, "hh-rlhf", data_root / "hh-rlhf" / f"{file}.jsonl.gz", mode=mode)
    report = quality_report(one_store)
    assert report.counts.judgments == result.imported
    # the folder's README counts all rows over the whole texts; unusable and equally long rows move the third digit
    assert _value(report.length[mode].longer_wins) == pytest.approx(longer_wins, abs=0.01)
