"""TRL preference rows in their three shapes, as JSON lines and as Parquet."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import DataError, UnavailableError
from prefloop.schema import Message
from prefloop.store import Store
from prefloop.store.formats import export_file, import_file


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


REPLIES = {"chosen": [said("assistant", "Eight minutes.")], "rejected": [said("assistant", "Nein.\n")]}
EXPLICIT = {"prompt": [said("system", "Be kind."), said("user", "An egg?")], **REPLIES}
TEXTS = {"prompt": "An egg?", "chosen": " Eight minutes.", "rejected": "Nein."}
IMPLICIT = {
    "chosen": [said("user", "hi"), said("assistant", "hello"), said("user", "egg?"), said("assistant", "yes")],
    "rejected": [said("user", "hi"), said("assistant", "hello"), said("user", "egg?"), said("assistant", "no")],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_three_shapes_come_in(store: Store, tmp_path: Path) -> None:
    report = import_file(store, "trl", write(tmp_path / "in.jsonl", EXPLICIT, TEXTS, {**IMPLICIT, "score": 1}))
    assert (report.imported, report.skipped) == (3, {})
    explicit, texts, implicit = store.pairs()
    assert explicit.context == (Message(role="system", text="Be kind."), Message(role="user", text="An egg?"))
    assert (explicit.chosen, explicit.rejected) == ("Eight minutes.", "Nein.\n")
    assert texts.context == (Message(role="user", text="An egg?"),)
    assert (texts.chosen, texts.rejected) == (" Eight minutes.", "Nein.")
    assert [message.text for message in implicit.context] == ["hi", "hello", "egg?"]
    assert (implicit.chosen, implicit.rejected, implicit.turn) == ("yes", "no", 2)


@pytest.mark.parametrize("format", ["trl", "parquet"])
def test_a_round_trip_gives_the_same_rows(store: Store, tmp_path: Path, format: str) -> None:
    rows = [{**EXPLICIT, "prompt": [said("user", f"question {n} é\u2028\t")]} for n in range(5)] + [EXPLICIT]
    import_file(store, "trl", write(tmp_path / "in.jsonl", *rows))
    assert export_file(store, format, tmp_path / "out").exported == len(rows)
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        assert import_file(other, format, tmp_path / "out").imported == len(rows)
        export_file(other, "trl", tmp_path / "again.jsonl")
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text("utf-8").split("\n")[:-1]] == rows


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**REPLIES, "prompt": 3}, "field 'prompt' is a number and must be a text or a list"),
        ({"prompt": "x", **REPLIES}, "field 'chosen' is a list and must be a text"),
        ({**TEXTS, "prompt": EXPLICIT["prompt"]}, "field 'chosen' is a text and must be a list"),
        ({"chosen": "x", "rejected": "y"}, "field 'chosen' is a text and must be a list"),
        ({**EXPLICIT, "prompt": ["x"]}, r"field prompt\[0\] is a text and must be an object"),
        ({**EXPLICIT, "prompt": [said("human", "x")]}, r"field prompt\[0\] has the role 'human'"),
        ({**EXPLICIT, "prompt": [{"role": "user"}]}, r"field prompt\[0\] has no field 'content'"),
        ({**EXPLICIT, "chosen": [said("assistant", None)]}, r"field chosen\[0\] field 'content' is null"),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_refuse_the_file(sqlite_store: Store, tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=f"line 2 {says}"):
        import_file(sqlite_store, "trl", write(tmp_path / "in.jsonl", EXPLICIT, row))
    assert list(sqlite_store.records()) == []


def test_unusable_rows_are_counted(sqlite_store: Store, tmp_path: Path) -> None:
    longer = [said("assistant", "a"), said("user", "b"), said("assistant", "c")]
    rows = [
        {**EXPLICIT, "rejected": EXPLICIT["chosen"]},
        {**EXPLICIT, "chosen": []},
        {**EXPLICIT, "chosen": longer},
        {**EXPLICIT, "prompt": []},
        {**EXPLICIT, "prompt": [said("system", "x")]},
    ]
    assert import_file(sqlite_store, "trl", write(tmp_path / "in.jsonl", *rows)).skipped == {
        "identical sides": 1,
        "does not end in a reply": 1,
        "contexts differ before the last reply": 1,
        "no human turn before the reply": 2,
    }


def test_parquet_has_provenance_columns(scene: Any, tmp_path: Path) -> None:
    import pyarrow.parquet

    comparison = scene.judged(grade=7)
    export_file(scene.store, "parquet", tmp_path / "out.parquet")
    (row,) = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert row["prompt"] == [said("user", "How do I boil an egg?")]
    assert row["chosen"] == [said("assistant", "No idea.")]
    expected = {"comparison_id": comparison.id, "worker_id": scene.ada.id, "grade": 7, "chosen_side": "b"}
    expected |= {"chosen_snapshot_id": scene.snapshot.id, "mode": "helpful", "tranche": "base", "turn": 1}
    assert {name: row[name] for name in expected} == expected


def test_a_broken_parquet_file_is_refused(sqlite_store: Store, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "text").write_text("not parquet at all")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        import_file(sqlite_store, "parquet", tmp_path / "text")
    pyarrow.parquet.write_table(pyarrow.table({"chosen": ["a"]}), tmp_path / "columns")
    with pytest.raises(DataError, match="row 1 field 'chosen' is a text and must be a list"):
        import_file(sqlite_store, "parquet", tmp_path / "columns")


def test_without_pyarrow_one_sentence_says_what_to_install(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnavailableError, match=r"pip install 'prefloop\[parquet\]'"):
        export_file(sqlite_store, "parquet", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
