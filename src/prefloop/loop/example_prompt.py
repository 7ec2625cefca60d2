"""Example prompts: dialogues that show an assistant how to answer, from a file or shipped. Knows no model."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prefloop.errors import ConfigError
from prefloop.sandbox.tiny import EXAMPLE_PROMPT, tiny_prompt
from prefloop.schema import Message

_MESSAGES = TypeAdapter(tuple[Message, ...])


def example_prompt(path: Path) -> tuple[Message, ...]:
    """The messages of a JSON file, a list of {"role", "text"}; where there is none, the prompt of that name that ships.

    Errors:
        ConfigError: no such file, no such list, an empty one, or one that does not end with the assistant.
    """
    if not path.exists() and path.name == EXAMPLE_PROMPT:
        path = tiny_prompt()
    try:
        messages = _MESSAGES.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"The example prompt {path} cannot be read ({error.strerror}); check the path, or name {EXAMPLE_PROMPT!r}, "
            "the one that ships for the sandbox."
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise ConfigError(
            f'The example prompt {path} is no list of {{"role", "text"}}: {place} is wrong: {fault["msg"]}.'
        ) from None
    if not messages or messages[-1].role != "assistant":
        raise ConfigError(
            f"The example prompt {path} has {len(messages)} turns and must end with an assistant's; complete it."
        )
    return messages
