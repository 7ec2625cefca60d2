"""hh-rlhf in and out: byte for byte, refused whole, or skipped with a reason."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.errors import DataError, NotFoundError
from prefloop.schema import Judgment, Message, Worker
from prefloop.store import Store
from prefloop.store.formats import export_file, import_file
from prefloop.store.formats.hh_rlhf import build, parse

H, A = "\n\nHuman: ", "\n\nAssistant: "


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(context: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": context + chosen, "rejected": context + rejected}


PLAIN = [
    pair(f"{H}hello{A}", "hi", "go away"),
    pair(f"{H}hello{A}hi{H}an egg?{A}", "Eight minutes.", "Nein."),
    pair(f"{H}hello{A}go away{H}why?{A}", "Sorry.", "Because.  \n"),
    pair(f"{A}I am a bot.{H}bye{A}", "Bye.", " leading space"),
]
ODD = [
    {"chosen": f"\n\nHuman:no space{A}a", "rejected": f"\n\nHuman:no space{A}b"},
    {"chosen": f"{H}one side\n\nAssistant:a", "rejected": f"{H}one side{A}b"},
    {"chosen": f" {H}space before{A}a", "rejected": f" {H}space before{A}b"},
]


def test_a_round_trip_gives_the_same_bytes_in_the_same_order(store: Store, tmp_path: Path) -> None:
    source, back = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(*PLAIN, *ODD), encoding="utf-8", newline="\n")
    report = import_file(store, "hh-rlhf", source, "online", "helpful")
    assert (report.imported, report.skipped) == (len(PLAIN) + len(ODD), {})
    assert export_file(store, "hh-rlhf", back).exported == len(PLAIN) + len(ODD)
    assert back.read_bytes() == source.read_bytes()


def test_a_gzipped_round_trip_too(sqlite_store: Store, tmp_path: Path) -> None:
    source, back, again = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz", tmp_path / "again.jsonl.gz"
    source.write_bytes(gzip.compress(lines(*PLAIN).encode()))
    import_file(sqlite_store, "hh-rlhf", source)
    export_file(sqlite_store, "hh-rlhf", back)
    assert gzip.decompress(back.read_bytes()) == gzip.decompress(source.read_bytes())
    export_file(sqlite_store, "hh-rlhf", again)
    assert again.read_bytes() == back.read_bytes()  # no time and no name in the header


def test_a_text_is_kept_only_where_its_turns_do_not_give_it_back(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(*PLAIN, *ODD))
    import_file(store, "hh-rlhf", source)
    kept = [record.import_texts is not None for record in store.records()]
    assert kept == [False] * len(PLAIN) + [True] * len(ODD)


def test_pairs_that_begin_alike_share_one_tree(store: Store, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(lines(*PLAIN[:2]))
    two.write_text(lines(PLAIN[2], PLAIN[3]))
    import_file(store, "hh-rlhf", one)
    import_file(store, "hh-rlhf", two, tranche="online")
    pairs = list(store.pairs())
    assert [pair.turn for pair in pairs] == [1, 2, 2, 2]
    assert len({pair.conversation_id for pair in pairs[:3]}) == 1
    assert pairs[3].conversation_id != pairs[0].conversation_id
    records = list(store.records())
    assert records[1].path[0].id == records[0].path[0].id == records[2].path[0].id
    assert pairs[2].context == (
        Message(role="user", text="hello"),
        Message(role="assistant", text="go away"),
        Message(role="user", text="why?"),
    )


def test_what_was_clicked_depends_on_the_mode(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(PLAIN[0]))
    for mode, question in (("helpful", "more_helpful"), ("red_team", "more_harmful")):
        assert import_file(store, "hh-rlhf", source, "base", mode).imported == 1
        (judged,) = store.judged(mode=mode)
        judgment = judged.judgment
        assert judged.comparison.response(judgment.preferred).text == "hi"  # `chosen` is the better one in both
        assert (judgment.clicked == judgment.preferred) == (mode == "helpful")
        assert (judgment.question, judgment.grade, judgment.worker_id) == (question, None, None)
        assert judgment.input_device == "import"
        assert judged.comparison.response_a.snapshot_id is None


def test_the_side_of_the_chosen_reply_is_balanced_and_fixed(sqlite_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(*(pair(f"{H}number {n}{A}", "yes", "no") for n in range(200))))
    import_file(sqlite_store, "hh-rlhf", source)
    sides = Counter(pair.chosen_side for pair in sqlite_store.pairs())
    assert 72 <= sides["a"] <= 128  # the digests are fixed, so this is one number: a fair coin's 4 sigma are 72..128
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        import_file(other, "hh-rlhf", source)
        assert [p.chosen_side for p in other.pairs()] == [p.chosen_side for p in sqlite_store.pairs()]


def test_a_pair_comes_in_once(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(*PLAIN, PLAIN[1]))
    assert import_file(store, "hh-rlhf", source).skipped == {"duplicate": 1}
    again = import_file(store, "hh-rlhf", source)
    assert (again.imported, again.skipped) == (0, {"duplicate": 5})
    assert len(list(store.pairs())) == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(f"{H}x{A}", "same", "same"), "identical sides"),
        ({"chosen": f"{H}x{A}a", "rejected": f"{H}y{A}b"}, "contexts differ before the last reply"),
        (pair(f"{H}x{A}", "a", "  "), "empty turn"),
        (pair(f"{H}{A}", "a", "b"), "empty turn"),
        (pair(f"{H}x{H}y{A}", "a", "b"), "two turns of the same speaker in a row"),
        (pair(f"{H}x{A}a{H}", "b", "c"), "does not end in a reply"),
        (pair(A, "a", "b"), "no human turn before the reply"),
        (pair("", "a", "b"), "no turns"),
        (pair("preface", f"{H}x{A}a", f"{H}x{A}b"), "no turns"),
        (pair(f"{H}x{A}", "a\0", "b"), "U+0000 or half a surrogate pair in a text"),
        (pair(f"{H}x{A}", "a", "b\ud800"), "U+0000 or half a surrogate pair in a text"),
    ],
)
def test_unusable_rows_are_counted_by_reason(
    sqlite_store: Store, tmp_path: Path, row: dict[str, str], reason: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(PLAIN[0], row, PLAIN[1]))
    report = import_file(sqlite_store, "hh-rlhf", source)
    assert (report.imported, report.skipped) == (2, {reason: 1})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"chosen": "x"', r"line 3 is not JSON \(Expecting"),
        ("[1, 2]", "line 3 is a list and not an object"),
        ('{"chosen": "x"}', "line 3 has no field 'rejected'"),
        ('{"chosen": "x", "rejected": null}', "line 3 field 'rejected' is null and must be a text"),
        ('{"chosen": ["x"], "rejected": "y"}', "line 3 field 'chosen' is a list and must be a text"),
        ("[" * 100_000, "line 3 holds a number or a nesting beyond all limits"),
        ('{"chosen": ' + "9" * 5000 + "}", "line 3 holds a number or a nesting beyond all limits"),
    ],
)
def test_a_broken_line_refuses_the_whole_file(store: Store, tmp_path: Path, line: str, says: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(*PLAIN[:2]) + line + "\n" + lines(PLAIN[2]))
    with pytest.raises(DataError, match=says) as caught:
        import_file(store, "hh-rlhf", source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (list(store.records()), store.events()) == ([], [])


def test_broken_files_are_refused(sqlite_store: Store, tmp_path: Path) -> None:
    packed = gzip.compress(lines(*PLAIN * 100).encode())
    source = tmp_path / "in.jsonl.gz"
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    for content in (packed[: len(packed) // 2], bytes(damaged), packed + b"tail"):
        source.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read|not UTF-8|not JSON"):
            import_file(sqlite_store, "hh-rlhf", source)
    source.write_bytes(lines(PLAIN[0]).encode() + b'{"chosen": "\xff"}\n')
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        import_file(sqlite_store, "hh-rlhf", source)
    with pytest.raises(NotFoundError, match="no file"):
        import_file(sqlite_store, "hh-rlhf", tmp_path / "none")
    assert list(sqlite_store.records()) == []


def test_wrong_names_are_refused(sqlite_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(lines(PLAIN[0]))
    with pytest.raises(DataError, match=r"format 'csv' is not known; use one of hh-rlhf, trl, jsonl, parquet"):
        import_file(sqlite_store, "csv", source)
    with pytest.raises(DataError, match="tranche 'first' is not known; use one of base"):
        import_file(sqlite_store, "hh-rlhf", source, "first")
    with pytest.raises(DataError, match="mode 'kind' is not known"):
        export_file(sqlite_store, "hh-rlhf", tmp_path / "out", mode="kind")


def test_a_failed_export_leaves_the_old_file(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, back = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(*PLAIN))
    import_file(sqlite_store, "hh-rlhf", source)
    back.write_text("old")

    def breaks(turns: Any) -> str:
        raise MemoryError

    monkeypatch.setattr("prefloop.store.formats.hh_rlhf.build", breaks)
    with pytest.raises(MemoryError):
        export_file(sqlite_store, "hh-rlhf", back)
    assert back.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir() if "jsonl" in path.name) == ["in.jsonl", "out.jsonl"]
    with pytest.raises(NotFoundError, match="folder"):
        export_file(sqlite_store, "hh-rlhf", tmp_path / "none" / "out.jsonl")


def test_collected_judgments_go_out_as_preferred_over_other(scene: Any, tmp_path: Path) -> None:
    scene.judged(grade=1)
    scene.judged(grade=8)
    scene.judged(grade=4)
    out = tmp_path / "out.jsonl"
    assert export_file(scene.store, "hh-rlhf", out).exported == 2
    begin = f"{H}How do I boil an egg?{A}"
    expected = [pair(begin, "Eight minutes.", "No idea."), pair(begin, "No idea.", "Eight minutes.")]
    assert [json.loads(line) for line in out.read_text().splitlines()] == expected
    assert export_file(scene.store, "hh-rlhf", out, drop_weakest=False).exported == 3
    assert export_file(scene.store, "hh-rlhf", out, mode="red_team").exported == 0


def test_a_later_judgment_on_an_imported_text_counts_for_its_own_side(store: Store, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(lines(ODD[0]))
    import_file(store, "hh-rlhf", source)
    (judged,) = store.judged()
    other = "b" if judged.judgment.preferred == "a" else "a"
    worker = store.add_worker(Worker(pseudonym="ada"))
    store.add_judgment(
        Judgment(
            comparison_id=judged.comparison.id,
            worker_id=worker.id,
            question="more_helpful",
            clicked=other,
            preferred=other,
        )
    )
    export_file(store, "hh-rlhf", out)
    swapped = {"chosen": ODD[0]["rejected"], "rejected": ODD[0]["chosen"]}
    assert [json.loads(line) for line in out.read_text().splitlines()] == [ODD[0], swapped]


def test_what_the_format_cannot_hold_is_counted(sqlite_store: Store, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    messages = [{"role": "user", "content": f"say {H}me"}]
    system = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    replies = {"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}
    source.write_text(lines({"prompt": messages, **replies}, {"prompt": system, **replies}))
    assert import_file(sqlite_store, "trl", source).imported == 2
    report = export_file(sqlite_store, "hh-rlhf", out)
    assert (report.exported, sum(report.skipped.values())) == (0, 2)


MARKS = ["\n\nHuman:", "\n\nAssistant:", " ", "\n", "x", "\u2028", "é"]
TEXTS = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(MARKS), max_size=12).map("".join))


@given(TEXTS)
def test_parsing_what_was_built_gives_the_text_or_says_that_it_does_not(text: str) -> None:
    turns = parse(text)
    if turns is not None and (built := build(turns)) is not None:
        assert parse(built) == turns


@settings(max_examples=40)
@given(context=TEXTS, replies=st.lists(TEXTS, min_size=2, max_size=2, unique=True))
def test_every_imported_pair_is_exported_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, context: str, replies: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "x.db").write_bytes(sqlite_template.read_bytes())
    rows = [pair(f"{H}{context}{A}", *replies), pair(context, *replies)]
    (folder / "in.jsonl").write_text(lines(*rows))
    with Store.open(f"sqlite:///{folder}/x.db") as store:
        report = import_file(store, "hh-rlhf", folder / "in.jsonl")
        export_file(store, "hh-rlhf", folder / "out.jsonl")
    out = [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert len(out) == report.imported
    kept = iter(rows)
    assert all(row in kept for row in out)  # the same rows in the same order, without the skipped ones
