"""Where a policy's prompts come from: contexts of the training split, and a file of generated ones. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prefloop.errors import DataError
from prefloop.loop.data import Context, prompts_of
from prefloop.schema import Message, Mode, PreferencePair
from prefloop.train.prompt_mix import PromptMix, mixed_prompts


def training_prompts(pairs: Sequence[PreferencePair], mix: PromptMix, seed: int) -> list[Context]:
    """The contexts of the training split and the generated prompts, in the shares of the run (paper 4.1, B.1).

    Errors:
        DataError: a source with a share is empty, or the file is no list of prompts.
    """
    shares = mix.shares()
    generated: list[Context] = (
        [] if mix.file is None else [(Message(role="user", text=text),) for text in read_prompts(mix.file)]
    )
    if not any(shares.values()):
        return [*prompts_of(pairs), *generated]
    sources: dict[str, list[Context]] = {"generated": generated}
    for mode in Mode:
        sources[mode.value] = prompts_of(pair for pair in pairs if pair.mode == mode)
    return mixed_prompts(sources, shares, seed)


def read_prompts(file: Path) -> list[str]:
    """The texts of a file that `run_prompts` wrote.

    Errors:
        DataError: no such file, or a line that is no {"prompt": text}.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"The prompts {file} cannot be read ({error.strerror}); check the path.") from None
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            prompt = None
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f'{file} line {number} is no {{"prompt": text}}; mend it.')
        prompts.append(prompt)
    return prompts
