"""`eval preference`: held-out comparisons of a workspace or of a file, several models, and what a reader must know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.errors import ConfigError, DataError
from prefloop.loop import preference_evaluation
from prefloop.loop.preference_evaluation import evaluate_models
from prefloop.loop.round import create_workspace
from prefloop.loop.snapshots import register
from prefloop.models.preference import PreferenceModel
from prefloop.sandbox.tiny import PMP_MODEL, tiny_model
from prefloop.schema import EvalResult, Message, Mode
from prefloop.store import Store
from prefloop.store.formats import import_file
from prefloop.workspace import Workspace


def store_rows(workspace: Workspace) -> list[EvalResult]:
    with workspace.store() as store:
        return store.eval_results(evaluation="preference")


def rows(file: Path, count: int) -> Path:
    lines = [
        {"prompt": f"what is number {n}", "chosen": f"it is number {n}", "rejected": "go away", "group": "ab"[n % 2]}
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made, _ = create_workspace(tmp_path_factory.mktemp("eval") / "ws")
    with made.store() as store:
        import_file(store, "trl", rows(made.path / "pairs.jsonl", 40))
        trained(made, store, "trained", held_out_share=0.05, sandbox_contrasts=0)
        trained(made, store, "ranked", held_out_share=0.0, ranked_files=["Posts.xml"])
    return made


def trained(workspace: Workspace, store: Store, name: str, **settings: object) -> Path:
    """A run folder with these settings around a PM of its own, as a snapshot too."""
    run = workspace.runs / f"preference-{name}-0"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(settings))
    (run / "metrics.jsonl").touch()
    model = PreferenceModel.load(tiny_model(PMP_MODEL))
    model.set_scale([0.0, 1.0 + len(list(workspace.runs.iterdir()))])  # the same scores, another folder
    path = model.save(run / "model")
    register(workspace, store, name, path, kind="preference_model", run_id=run.name)
    return path


def test_several_models_on_the_same_comparisons(workspace: Workspace) -> None:
    with workspace.store() as store:
        evaluated = evaluate_models(workspace, store, [PMP_MODEL, "trained"], held_out_share=0.5)
        kept = store.eval_results(evaluation="preference", model_id="trained")
    one, other = evaluated.evaluations.values()
    assert one == other  # the same weights
    [difference] = evaluated.differences
    assert (difference.accuracy["all"].value, difference.accuracy["all"].n) == (0.0, one.pairs)
    assert {row.metric for row in store_rows(workspace)} >= {"preference_eval/accuracy_difference"}
    assert 10 <= one.pairs <= 30
    assert one.words is not None
    assert one.words.value > 0.9  # 'go away' is always the worse one
    assert {row.data for row in kept} >= {"held-out 0.5", "held-out 0.5 tranche=base"}
    [seen] = evaluated.notes
    assert seen == (
        "trained was trained with 0.05 of the conversations held out and is evaluated on 0.5 of them, so it has seen "
        "some; evaluate with --held-out-share 0.05."
    )


def test_who_has_seen_what_is_evaluated_on(workspace: Workspace) -> None:
    """By snapshot or folder, itself or by its start; other data than the workspace's says nothing."""
    with workspace.store() as store:
        whole = trained(workspace, store, "whole", held_out_share=0.0)
        start = str(workspace.path / store.snapshot("whole").path)
        child = trained(workspace, store, "child", held_out_share=0.5, start=start)
        grandchild = trained(workspace, store, "grandchild", held_out_share=0.9, start=str(child), ranked_files=["a"])
        trained(workspace, store, "apart", held_out_share=0.5, start="pmp_sandbox_tiny")
        notes = {
            name: evaluate_models(workspace, store, [name], held_out_share=0.5).notes
            for name in ("ranked", "apart", "whole", str(whole), "child", str(child), "grandchild", str(grandchild))
        }
    assert {name for name, said in notes.items() if not said} == {"ranked", "apart"}
    assert all("with 0 of the conversations held out" in note for said in notes.values() for note in said)
    assert notes["child"][0].startswith("child started from a model that was trained with 0")


def test_comparisons_of_a_file_have_groups(workspace: Workspace, tmp_path: Path) -> None:
    file = rows(tmp_path / "hhh.jsonl", 5)
    with workspace.store() as store:
        evaluated = evaluate_models(workspace, store, [PMP_MODEL], held_out_share=0.5, file=file)
    [evaluation] = evaluated.evaluations.values()
    assert {name: value.n for name, value in evaluation.slices["group"].items()} == {"a": 3, "b": 2}
    assert (evaluated.data, evaluated.notes) == ("hhh.jsonl", ())
    assert not {"tranche", "mode"} & set(evaluation.slices), "the file states neither"


def test_a_folder_and_a_file_need_no_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "preference", str(tiny_model(PMP_MODEL)), "--file", str(rows(tmp_path / "hhh.jsonl", 5))]
    nowhere = ["--workspace", str(tmp_path / "nowhere"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *nowhere])
    printed = capsys.readouterr()
    assert (ended.value.code, json.loads(printed.out)["pairs"]) == (0, 5)
    words[2] = "trained"  # a snapshot is of a workspace
    with pytest.raises(SystemExit) as ended:
        main([*words, *nowhere])
    assert ended.value.code == 2
    assert "is not a workspace" in capsys.readouterr().err


def test_comparisons_that_one_model_refuses_are_left_out_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses:
        def __init__(self, number: str) -> None:
            self._number = number

        def score(self, conversations: list[list[Message]]) -> list[float]:
            texts = [conversation[-1].text for conversation in conversations]
            if any(text == f"it is number {self._number}" for text in texts):
                raise DataError("It is longer than the window.")
            return [float(len(text)) for text in texts]

    monkeypatch.setattr(
        preference_evaluation, "load_preference_model", lambda workspace, store, name, device: Refuses(name)
    )
    evaluated = evaluate_models(None, None, ["1", "2"], held_out_share=0.5, file=rows(tmp_path / "hhh.jsonl", 6))
    assert [one.pairs for one in evaluated.evaluations.values()] == [4, 4]
    assert evaluated.differences[0].accuracy["a"].n == 2
    assert any("the 4 of 6 comparisons" in note and note.endswith("1 1, 2 1.") for note in evaluated.notes)


def test_refusals(workspace: Workspace, tmp_path: Path) -> None:
    empty, _ = create_workspace(tmp_path / "empty")
    file = rows(tmp_path / "a.jsonl", 4)
    with workspace.store() as store:
        with pytest.raises(ConfigError, match="named twice"):
            evaluate_models(workspace, store, ["trained", "trained"], held_out_share=0.5)
        with pytest.raises(ConfigError, match="of modes and tranches, so red_team cannot be chosen of it"):
            evaluate_models(workspace, store, ["trained"], held_out_share=0.5, mode=Mode.RED_TEAM, file=file)
        with pytest.raises(DataError, match=r"None of .* 40 .* mode red_team \(there are: 40 helpful base"):
            evaluate_models(workspace, store, ["trained"], held_out_share=0.5, mode=Mode.RED_TEAM)
    with empty.store() as store:
        with pytest.raises(DataError, match="holds no comparisons to evaluate on; import some"):
            evaluate_models(empty, store, [PMP_MODEL], held_out_share=0.5)
        alone = evaluate_models(empty, store, [PMP_MODEL], held_out_share=0.5, file=rows(tmp_path / "hhh.jsonl", 4))
    assert alone.evaluations[PMP_MODEL].words is None
    assert "needs 2 training pairs, not 0" in alone.notes[0]
