"""An encoder through the real commands: trained from a folder, evaluated beside a model from elsewhere, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prefloop.cli import main
from prefloop.engine import Registry, write_manifest
from prefloop.loop.round import create_workspace
from prefloop.models.language import load_tokenizer, save_model
from prefloop.models.preference import PreferenceModel
from prefloop.runs import RunFolder
from prefloop.schema import Message, PreferencePair
from prefloop.store.formats import import_file
from prefloop.train.preference import start_model, train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace

PAIRS = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made, _ = create_workspace(tmp_path_factory.mktemp("encoder") / "ws")
    with made.store() as store:
        assert import_file(store, "hh-rlhf", PAIRS, "base", "helpful").imported == 24
    return made


def prefloop(capsys: pytest.CaptureFixture[str], workspace: Workspace, *words: str) -> dict[str, object]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--workspace", str(workspace.path), "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    printed: dict[str, object] = json.loads(captured.out)
    return printed


def test_train_evaluate_and_serve(
    workspace: Workspace, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.toml"
    run.write_text(f'name = "encoder"\nstart = "{bert_folder}"\npairs_per_step = 8\nheld_out_share = 0.2\n')
    trained = prefloop(capsys, workspace, "train", "preference", str(run))
    assert trained["snapshot"] == "encoder"
    assert trained["dropped_long_pairs"] == 0
    rows = [json.loads(line) for line in (Path(str(trained["run"])) / "metrics.jsonl").read_text().splitlines()]
    assert [row["preference/tokens_shared"] for row in rows] == [0.0] * len(rows)

    elsewhere = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=1)
    folder = save_model(elsewhere, load_tokenizer(bert_folder), tmp_path / "elsewhere")
    evaluated = prefloop(capsys, workspace, "eval", "preference", "encoder", str(folder), "--held-out-share", "0.2")
    assert set(evaluated["models"]) == {"encoder", str(folder)}  # type: ignore[call-overload]

    with workspace.store() as store:
        snapshot = store.snapshot("encoder")
    model = PreferenceModel.load(workspace.path / snapshot.path)
    said = [Message(role="user", text="what is the time"), Message(role="assistant", text="it is late")]
    write_manifest(
        workspace.path / "pms.json", [snapshot.model_copy(update={"path": str(workspace.path / snapshot.path)})]
    )
    registry = Registry(workspace.path / "pms.json", device="cpu")
    try:
        assert registry.scorer("encoder").score([said]) == model.score([said])
    finally:
        registry.close()


class Quiet:
    """A progress bar that shows nothing."""

    def __init__(self, steps: range, **_: object) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def set_postfix(self, **_: object) -> None:
        """Shows nothing."""


def test_training_learns_and_does_not_depend_on_the_parts(bert_folder: Path, tmp_path: Path) -> None:
    pairs = [
        PreferencePair(
            context=(Message(role="user", text=f"tell me about {number}"),),
            chosen=f"rivers {number % 7} then rivers",
            rejected=f"go home {number % 5} now",
            conversation_id=f"c{number}",
        )
        for number in range(96)
    ]
    basic = {"start": bert_folder, "pairs_per_step": 16, "learning_rate": 3e-3, "dtype": "float32", "epochs": 3}

    losses, embeddings = [], []
    for tokens in (16_384, 40):
        run = PreferenceRun(**basic, tokens_per_forward=tokens, freeze_embeddings=True)  # type: ignore[arg-type]
        folder = RunFolder.create(tmp_path, "preference", run, name=f"parts-{tokens}")
        trained = train_preference(run, pairs, folder, pairs[:16], progress=Quiet).model
        embeddings.append(trained.trunk.get_input_embeddings().weight)
        losses.append([row["preference/loss"] for row in folder.metrics()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < 0.3 < losses[0][0]
    start = start_model(run).trunk
    assert all(torch.equal(one, start.get_input_embeddings().weight) for one in embeddings)
    assert not torch.equal(
        trained.trunk.encoder.layer[0].output.dense.weight, start.encoder.layer[0].output.dense.weight
    )
