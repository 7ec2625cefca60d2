"""The tiny models that ship with the package: the chat model and the PM pre-trained to hear what was asked for.

Both are Hugging Face folders below `models/`, made by `recipes/lm_sandbox_tiny` and `recipes/pmp_sandbox_tiny`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from prefloop.errors import NotFoundError

CHAT_MODEL = "lm_sandbox_tiny"
PMP_MODEL = "pmp_sandbox_tiny"
SHIPPED = (CHAT_MODEL, PMP_MODEL)
EXAMPLE_PROMPT = "sandbox_hhh"
"""Dialogues of a helpful and harmless assistant of the tiny world, for context distillation."""


def tiny_model(name: str) -> Path:
    """The folder of a shipped model.

    Errors:
        NotFoundError: the package was installed without it.
    """
    path = Path(str(resources.files("prefloop.sandbox"))) / "models" / name
    if not (path / "config.json").is_file():
        raise NotFoundError(f"The package holds no model {name!r} at {path}; install prefloop anew.")
    return path


def tiny_prompt() -> Path:
    """The JSON file of `EXAMPLE_PROMPT`: a list of turns."""
    return Path(str(resources.files("prefloop.sandbox"))) / f"{EXAMPLE_PROMPT}.json"
