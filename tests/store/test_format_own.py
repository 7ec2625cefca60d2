"""The own JSON lines: everything goes out and comes back equal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import DataError
from prefloop.schema import Snapshot, TreeMessage
from prefloop.store import Store
from prefloop.store.formats import export_file, import_file

H, A = "\n\nHuman: ", "\n\nAssistant: "


def fill(scene: Any, folder: Path) -> None:
    """Two turns of a conversation, a correction, a second worker, a void, an open and three imported comparisons."""
    first = scene.judged(grade=4)
    judgment = scene.store.judgments(first.id)[0]
    scene.store.add_judgment(scene.judgment(first, grade=7, revises=judgment.id))
    scene.store.add_judgment(scene.judgment(first, grade=1, worker=scene.ben))
    answer = scene.store.continue_with(first.id, "b")
    turn = TreeMessage(conversation_id=first.conversation_id, parent_id=answer.id, role="user", text="и?\u2028 ")
    second = scene.done(scene.store.add_message(turn), turn=2)
    scene.store.add_judgment(scene.judgment(second, grade=8))
    scene.store.end_conversation(first.conversation_id, "finished")
    scene.store.fail_response(scene.comparison().response_a.id, "broken")
    scene.comparison()
    write_pairs(folder / "pairs.jsonl")
    import_file(scene.store, "hh-rlhf", folder / "pairs.jsonl", "online", "red_team")


def write_pairs(path: Path) -> None:
    rows = [(f"{H}x{A}", "a", "b"), (f"{H}x{A}a{H}y{A}", "c", "d"), ("\n\nHuman:odd\n\nAssistant:", "e", "f")]
    path.write_text(
        "".join(json.dumps({"chosen": begin + yes, "rejected": begin + no}) + "\n" for begin, yes, no in rows)
    )


def test_a_round_trip_is_equal_in_everything(scene: Any, tmp_path: Path) -> None:
    fill(scene, tmp_path)
    out, again = tmp_path / "out.jsonl.gz", tmp_path / "again.jsonl.gz"
    assert export_file(scene.store, "jsonl", out).exported == 7
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        report = import_file(other, "jsonl", out)
        assert (report.imported, report.skipped) == (7, {})
        assert list(other.records()) == list(scene.store.records())
        assert list(other.pairs()) == list(scene.store.pairs())
        assert other.studies() == scene.store.studies()
        assert other.workers() == scene.store.workers()
        assert other.snapshots() == scene.store.snapshots()
        export_file(other, "jsonl", again)
        assert again.read_bytes() == out.read_bytes()
        assert import_file(other, "jsonl", out).skipped == {"duplicate": 7}


def test_what_a_file_brought_may_be_there_already_under_other_ids(scene: Any, tmp_path: Path) -> None:
    fill(scene, tmp_path)
    out = tmp_path / "out.jsonl"
    export_file(scene.store, "jsonl", out)
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "pairs.jsonl").write_text(lines[1] + lines[2])
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        other.add_snapshot(Snapshot(name="base", hash="other", path="elsewhere"))
        import_file(other, "hh-rlhf", tmp_path / "pairs.jsonl", "online", "red_team")
        report = import_file(other, "jsonl", out)
        assert (report.imported, report.skipped) == (5, {"duplicate": 2})
        assert {(p.context, p.chosen) for p in other.pairs()} == {(p.context, p.chosen) for p in scene.store.pairs()}
        # The first imported pair joined the tree that the second one had made.
        opening = [p.conversation_id for p in other.pairs() if p.context[0].text == "x"]
        assert len(opening) == 2
        assert len(set(opening)) == 1
        assert [s.name for s in other.snapshots()] == [f"base ({scene.snapshot.id})", "base"]


def test_an_export_of_one_mode_comes_back_alone(scene: Any, tmp_path: Path) -> None:
    fill(scene, tmp_path)
    assert export_file(scene.store, "jsonl", tmp_path / "out.jsonl", mode="red_team").exported == 3
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        assert import_file(other, "jsonl", tmp_path / "out.jsonl").imported == 3
        assert list(other.pairs()) == list(scene.store.pairs(mode="red_team"))
        assert other.studies() == []


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(line: dict[str, Any]) -> None:
        *outer, last = path
        for name in outer:
            line = line[name]
        line[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("kind", value="thing"), "field 'kind' is 'thing'"),
        (_set("record", value=[]), "field 'record' is a list and must be an object"),
        (_set("record", "comparison", "turn", value="1"), "'record.comparison.turn': Input should be a valid integer"),
        (_set("record", "comparison", "mood", value=1), "'record.comparison.mood': Extra inputs are not permitted"),
        (_set("record", "judgments", value=[]), "in state 'judged' with 0 judgments"),
        (_set("record", "comparison", "response_a", "state", value="pending"), "a response that is not done"),
        (_set("record", "path", value=[]), "does not end in 'context_message_id'"),
        (_set("record", "comparison", "conversation_id", value="x"), "not in the conversation"),
        (_set("record", "comparison", "worker_id", value="nobody"), "does not hold together"),
    ],
)
def test_a_wrong_line_refuses_the_file(
    scene: Any, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    scene.judged()
    scene.judged()
    out = tmp_path / "out.jsonl"
    export_file(scene.store, "jsonl", out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    change(lines[-1])
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        with pytest.raises(DataError, match=says) as caught:
            import_file(other, "jsonl", out)
        assert "out.jsonl" in str(caught.value)
        assert (list(other.records()), other.workers(), other.events()) == ([], [], [])


@pytest.mark.parametrize("content", ['{"chosen": "x"}\n', '{"format": "prefloop", "version": 2}\n'])
def test_another_kind_of_file_is_refused(sqlite_store: Store, tmp_path: Path, content: str) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(DataError, match=re.escape('does not begin with {"format": "prefloop", "version": 1}')):
        import_file(sqlite_store, "jsonl", tmp_path / "in.jsonl")


def test_an_empty_file_is_refused(sqlite_store: Store, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no rows"):
        import_file(sqlite_store, "jsonl", tmp_path / "in.jsonl")
