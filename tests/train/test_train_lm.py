"""Training a language model: what it refuses to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_distill import TEXTS, new_mistral, quiet, teacher

from prefloop.errors import ModelError
from prefloop.models.language import load_language_model, save_model
from prefloop.runs import RunFolder
from prefloop.train.lm import LanguageRun, train_language_model

__all__ = ["teacher"]


def test_a_start_with_a_window_is_refused(teacher: Path, tmp_path: Path) -> None:
    """Packed texts would be learned as if it saw all of them."""
    tokens = load_language_model(teacher).renderer.tokenizer
    start = save_model(new_mistral(tokens, window=4), tokens, tmp_path / "windowed")
    run = LanguageRun(start=start, steps=1, tokens_per_step=64, held_out_conversations=0)
    with pytest.raises(ModelError, match="mistral model has windowed"):
        train_language_model(run, TEXTS, RunFolder(tmp_path), progress=quiet)
