"""GPT-2, GPT-NeoX and Llama as the hub has them, without padding of their own, through the real commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefloop.cli import main
from prefloop.engine import Registry, write_manifest
from prefloop.loop.data import split
from prefloop.render import Renderer
from prefloop.store.formats import import_file
from prefloop.workspace import Workspace

PAIRS = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"


def prefloop(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return json.loads(captured.out)


def written(path: Path, **settings: object) -> Path:
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return path


@pytest.mark.parametrize(
    ("family", "pad"), [("gpt2", None), ("gpt_neox", "<|endoftext|>"), ("llama", "</s>")], ids=["gpt2", "neox", "llama"]
)
def test_from_init_to_a_policy(
    family: str,
    pad: str | None,
    hub_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, where = hub_folder(family, pad=pad, window=512), tmp_path / "w"
    prefloop(capsys, "init", where, "--model", folder)
    workspace = Workspace(where)
    with workspace.store() as store:
        assert import_file(store, "hh-rlhf", PAIRS, "base", "helpful").imported == 24
        base = store.snapshot("base")

    settings: dict[str, object] = {"held_out_share": 0.3, "max_context_tokens": 130, "pairs_per_step": 4}
    pm = written(tmp_path / "pm.toml", name="pm", start="base", **settings)
    trained = prefloop(capsys, "train", "preference", pm, "--workspace", where)
    evaluated = prefloop(capsys, "eval", "preference", "pm", "--held-out-share", 0.3, "--workspace", where)
    counted = ("pairs", "dropped_pairs", "dropped_turns")
    told = ("held_out_pairs", "held_out_dropped_long_pairs", "held_out_dropped_turns")
    assert [evaluated[name] for name in counted] == [trained[name] for name in told], "evaluated at its own window"
    assert evaluated["dropped_turns"] > 0

    lm = written(tmp_path / "lm.toml", name="lm", start="base", steps=1, held_out_conversations=2)
    prefloop(capsys, "train", "lm", lm, "--workspace", where)
    sizes = {"episodes": 8, "episodes_per_batch": 4, "samples_per_prompt": 2, "minibatches": 1, "epochs": 1}
    models = {"policy": "lm", "preference_model": "pm", "held_out_preference_model": "pm"}
    policy = written(tmp_path / "policy.toml", name="policy", max_response_tokens=8, workers=1, **models, **sizes)
    prefloop(capsys, "train", "policy", policy, "--workspace", where)

    with workspace.store() as store:
        snapshots = {name: store.snapshot(name) for name in ("pm", "lm", "policy")}
    kinds = {"pm": AutoModelForSequenceClassification, "lm": AutoModelForCausalLM, "policy": AutoModelForCausalLM}
    for name, kind in kinds.items():
        path = where / snapshots[name].path
        model, tokens = kind.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        assert tokens.pad_token_id == model.config.pad_token_id < model.get_input_embeddings().num_embeddings
        assert tokens.pad_token_id != tokens.eos_token_id
    served = [one.model_copy(update={"path": str(where / one.path)}) for one in (base, *snapshots.values())]
    write_manifest(tmp_path / "served.json", served)
    registry = Registry(tmp_path / "served.json", device="cpu")
    try:
        for name in ("base", "policy"):
            assert registry.assistant(name).renderer.pad_id == tokens.pad_token_id
    finally:
        registry.close()


def test_a_pm_that_pads_with_its_end_is_evaluated_and_trained_further(
    hub_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TRL saves them: it is read before its end, also by the plain class after training here."""
    folder, where = hub_folder("llama", head=True, pad="</s>", window=512), tmp_path / "w"
    prefloop(capsys, "init", where)
    with Workspace(where).store() as store:
        import_file(store, "hh-rlhf", PAIRS, "base", "helpful")
    share = ("--held-out-share", 0.3, "--workspace", where)
    evaluated = prefloop(capsys, "eval", "preference", folder, *share)
    expected = plain_accuracy(folder, where)
    assert evaluated["accuracy"]["value"] == pytest.approx(expected)

    settings = {"held_out_share": 0.3, "pairs_per_step": 4, "learning_rate": 1e-2}
    run = written(tmp_path / "pm.toml", name="pm", start=str(folder), **settings)
    trained = prefloop(capsys, "train", "preference", run, "--workspace", where)
    model = Path(trained["run"]) / "model"
    assert trained["accuracy"]["value"] == pytest.approx(plain_accuracy(model, where))
    assert json.loads((model / "config.json").read_text())["reply_end_ids"] == []


def plain_accuracy(folder: Path, where: Path) -> float:
    """Of the plain class on the held-out pairs, their texts written out with the plain headers and the end."""
    model, tokens = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with Workspace(where).store() as store:
        held_out = split(list(store.pairs()), 0.3).held_out
    renderer = Renderer(AutoTokenizer.from_pretrained(folder), pad_id=tokens.eos_token_id)
    right = []
    for pair in held_out:
        ids = [renderer.context_ids(pair.context) + renderer.reply_ids(text) for text in (pair.chosen, pair.rejected)]
        with torch.no_grad():
            chosen, rejected = model(**tokens.pad({"input_ids": ids}, return_tensors="pt")).logits[:, 0].tolist()
        right.append(chosen > rejected)
    return sum(right) / len(right)
