"""Ranked answers: Stack Exchange's XML, JSON lines, and the comparisons made of both."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from prefloop.errors import DataError, NotFoundError
from prefloop.store.formats import ranked_pairs, read_ranked
from prefloop.store.formats.ranked import Answer, RankedQuestion
from prefloop.store.formats.stack_exchange import answer_score, plain_text


def row(**attributes: object) -> str:
    return "<row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items()) + " />\n"


def question(id: int, body: str = "<p>Why?</p>", **more: object) -> str:
    return row(Id=id, PostTypeId=1, Score=3, Body=body, Title=f"Title {id}", **more)


def answer(id: int, parent: int, votes: object, body: str = "") -> str:
    return row(Id=id, PostTypeId=2, ParentId=parent, Score=votes, Body=body or f"<p>Answer {id}.</p>")


def posts(path: Path, *rows: str) -> Path:
    text = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>\n"
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_scores_follow_the_rule() -> None:
    # log2(1 + votes): 0, 1, 1.58, 2, 2.32, 2.58, 6.66
    assert [answer_score(votes, False) for votes in (0, 1, 2, 3, 4, 5, 100)] == [0, 1, 2, 2, 2, 3, 7]
    assert (answer_score(3, True), answer_score(-1, False), answer_score(-5, True)) == (3, -1, -1)


@pytest.mark.parametrize("name", ["Posts.xml", "Posts.xml.gz"])
def test_posts_come_together(tmp_path: Path, name: str) -> None:
    file = posts(
        tmp_path / name,
        answer(7, 1, 0),  # before its question
        question(1, AcceptedAnswerId=4),
        question(2),
        answer(3, 2, 9),  # alone
        answer(4, 1, 1),
        row(Id=5, PostTypeId=5, Body="a tag's wiki"),
        answer(6, 1, -2),
        answer(8, 99, 1),  # of no question here
    )
    assert list(read_ranked(file)) == [
        RankedQuestion(
            f"{name}:1",
            "Title 1\n\nWhy?",
            [Answer("Answer 4.", 2), Answer("Answer 6.", -1), Answer("Answer 7.", 0)],  # round(log2(2)) + 1 accepted
        )
    ]


def test_a_mark_before_the_first_letter_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "marked.jsonl"
    file.write_text('{"question": "why?", "answers": ["so", "no"]}\r\n', encoding="utf-8-sig", newline="")
    assert [found.text for found in read_ranked(file)] == ["why?"]


def test_bodies_become_text() -> None:
    html = "<p>Use  <b>this</b>&amp;that &lt;3</p>\n<ul><li>one</li><li>two</li></ul>"
    html += "<pre><code>if x:\n    y\n</code></pre>end"
    assert plain_text(html) == "Use this&that <3\n\n- one\n\n- two\n\nif x:\n    y\n\nend"
    assert plain_text("a<br>b") == "a\nb"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(questions: int) -> int:
        body = "<p>" + "word " * 200 + "</p>"
        rows = (
            question(3 * n, body) + answer(3 * n + 1, 3 * n, 1) + answer(3 * n + 2, 3 * n, 9) for n in range(questions)
        )
        file = posts(tmp_path / f"{questions}.xml", *rows)
        tracemalloc.start()
        assert sum(1 for _ in read_ranked(file)) == questions
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(50), peak(1000)  # the large file has a body more of 1 MB
    assert large < small + 300_000


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["<row "], "no well-formed XML"),
        ([answer(1, 2, "many")], "post Id='1' has Score = 'many'"),
        ([row(Id=1, PostTypeId=2, Score=1)], "ParentId = None"),
        ([answer(1, 2, "9" * 23)], "Score = '9{23}' and needs a whole number of at most 9223372036854775807"),
        ([answer(10**30, 2, 1)], "Id = '10{30}' and needs"),
        ([answer(1, 2, "9" * 5000)], "needs a whole number of at most"),
    ],
)
def test_broken_posts_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_ranked(posts(tmp_path / "Posts.xml", *rows)))


@pytest.mark.parametrize("encoding", ["utf-32", "x-unknown"])
def test_an_encoding_that_cannot_be_read_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "Posts.xml"
    file.write_text(f'<?xml version="1.0" encoding="{encoding}"?><posts>{question(1)}</posts>')
    with pytest.raises(DataError, match=r"is in an encoding that cannot be read \(.*\); write it as UTF-8"):
        list(read_ranked(file))


def test_what_is_gzipped_shows_in_its_bytes(tmp_path: Path) -> None:
    file = posts(tmp_path / "Posts.xml", question(1), answer(2, 1, 3), answer(3, 1, 0))
    plain, data = list(read_ranked(file)), file.read_bytes()
    file.write_bytes(gzip.compress(data))
    assert list(read_ranked(file)) == plain
    (tmp_path / "other").mkdir()
    named = tmp_path / "other" / "Posts.xml.gz"
    named.write_bytes(data)  # unpacked on the way, under its old name
    assert [one.answers for one in read_ranked(named)] == [one.answers for one in plain]


def test_entities_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "Posts.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY b "cc">]><posts><row Body="&b;"/></posts>')
    with pytest.raises(DataError, match="declares a document type"):
        list(read_ranked(file))


def test_json_lines_ranked_or_scored(tmp_path: Path) -> None:
    file = tmp_path / "ranked.jsonl"
    rows = [
        {"question": "which", "answers": ["best", "middle", "worst"]},
        {"question": "what", "answers": [{"text": "low", "score": 1}, {"text": "high", "score": 2.5}]},
        {"question": "alone", "answers": ["only"]},
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    pairs = [(pair.chosen, pair.rejected) for pair in ranked_pairs(read_ranked(file), is_binary=False)]
    assert pairs == [("best", "middle"), ("best", "worst"), ("middle", "worst"), ("high", "low")]
    file.write_text('{"question": "q", "answers": ["a", {"text": "b", "score": 1}]}')
    with pytest.raises(DataError, match=r"line 1 field answers\[0\] is a text"):
        list(read_ranked(file))
    file.write_text('{"question": "q", "answers": [{"text": "b"}, {"text": "b"}]}')
    with pytest.raises(DataError, match="score"):
        list(read_ranked(file))
    with pytest.raises(NotFoundError):
        list(read_ranked(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("NaN", "is nan and must be a finite number"),
        ("-Infinity", "is -inf"),
        ("1e999", "is inf"),
        ("1" + "0" * 400, "is beyond 1e308"),
        ("true", "is true or false and must be a number;"),
    ],
)
def test_a_score_that_is_no_finite_number_is_refused(tmp_path: Path, score: str, said: str) -> None:
    file = tmp_path / "ranked.jsonl"
    answers = f'[{{"text": "a", "score": 1}}, {{"text": "b", "score": {score}}}]'
    file.write_text(f'\n{{"question": "q", "answers": {answers}}}')
    with pytest.raises(DataError, match=rf"ranked.jsonl line 2 field answers\[1\] field 'score' {said}"):
        list(read_ranked(file))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"question": "half \\ud83d", "answers": ["a", "b"]}',
            r"'question' holds half of a surrogate pair at position 5",
        ),
        ('{"question": "q", "answers": ["a", "\\ud83d"]}', r"answers\[1\] holds half of a surrogate pair"),
        ('{"question": "q", "answers": [{"text": "\\u0000", "score": 1}]}', r"answers\[0\] field 'text' holds"),
        ('{"question": 5, "answers": ["alone"]}', "'question' is a number and must be a text"),
        ('{"answers": []}', "has no field 'question'"),
    ],
)
def test_a_text_that_is_none_is_refused(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "ranked.jsonl"
    file.write_text(f'{{"question": "good", "answers": ["a", "b"]}}\n{line}\n')
    with pytest.raises(DataError, match=rf"ranked.jsonl line 2 .*{said}"):
        list(read_ranked(file))


def test_a_ranked_pair_becomes_two_of_one_text_each() -> None:
    one = RankedQuestion("q:1", "which", [Answer("B", 0), Answer("A", 1), Answer("same", 1), Answer(" ", 7)])
    pairs = list(ranked_pairs([one]))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("GOOD: A", "BAD: A"),
        ("BAD: B", "GOOD: B"),
        ("GOOD: same", "BAD: same"),
        ("BAD: B", "GOOD: B"),
    ]
    assert {(pair.conversation_id, pair.context[0].text) for pair in pairs} == {("q:1", "which")}


def test_pairs_of_a_question_are_drawn() -> None:
    many = RankedQuestion("q:1", "which", [Answer(str(n), n) for n in range(10)])
    drawn = list(ranked_pairs([many], is_binary=False, most=3, seed=1))
    assert len({(pair.chosen, pair.rejected) for pair in drawn}) == 3
    assert all(int(pair.chosen) > int(pair.rejected) for pair in drawn)
    assert drawn == list(ranked_pairs([many], is_binary=False, most=3, seed=1))
    assert drawn != list(ranked_pairs([many], is_binary=False, most=3, seed=2))


def test_real_posts(data_root: Path) -> None:
    file = data_root / "stackexchange" / "igodlab_Posts.xml.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    questions = list(read_ranked(file))
    assert len(questions) > 100
    assert not any("<p>" in one.text or "&lt;" in one.text for one in questions)
    assert list(ranked_pairs(questions))
