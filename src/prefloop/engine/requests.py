"""The bodies that clients send, checked, and the errors in OpenAI's shape. Knows no models."""

from __future__ import annotations

from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefloop.errors import DataError
from prefloop.schema import Message, Role, SamplingSettings

__all__ = [
    "AdapterRequest",
    "ApiError",
    "ChatRequest",
    "CompletionRequest",
    "ScoresRequest",
    "sentence_of",
]

_MOST_REPLIES = 128
_MOST_STOPS = 16
_MOST_CONVERSATIONS = 4096


class ApiError(Exception):
    """A refusal: status, one sentence, and where it lies."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status)


class _Body(BaseModel):
    """Unknown keys are ignored: clients send what other servers understand."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TextPart(_Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One turn as OpenAI writes it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def turn(self) -> Message:
        """The turn as prefloop writes it."""
        role: Role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=role, text=text)


class StreamOptions(_Body):
    """What a stream holds besides text."""

    include_usage: bool = False


class ChatRequest(_Body):
    """POST /v1/chat/completions. What is not set comes from the snapshot's own settings."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=_MOST_REPLIES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0.0, le=10.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _stop_is_bounded(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > _MOST_STOPS:
            raise ValueError(f"{len(stop)} stop strings are more than the {_MOST_STOPS} allowed")
        if stop == "" or (isinstance(stop, list) and "" in stop):
            raise ValueError("a stop string must not be empty")
        return stop

    def refuse_unsupported(self) -> None:
        """Says no to what would otherwise be silently left out.

        Errors:
            ApiError: tools, log-probabilities or a response format are asked for.
        """
        text_only = self.response_format is None or self.response_format.get("type") == "text"
        asked = {"tools": bool(self.tools), "logprobs": bool(self.logprobs), "response_format": not text_only}
        for name, is_asked in asked.items():
            if is_asked:
                raise ApiError(400, f"{name!r} is not supported by this server; leave it out.", name)

    def sampling(self, defaults: SamplingSettings, own_stop: tuple[str, ...]) -> SamplingSettings:
        """The snapshot's settings with the request's above them."""
        stop = defaults.stop if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        tokens = self.max_completion_tokens or self.max_tokens or defaults.max_response_tokens
        return SamplingSettings(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            max_response_tokens=tokens,
            stop=stop + own_stop,
        )


class CompletionRequest(_Body):
    """POST /v1/completions over token ids: the prompt is taken as it is, without a snapshot's example prompt."""

    model: str
    prompt: list[int] = Field(min_length=1)
    n: int = Field(1, ge=1, le=_MOST_REPLIES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float = Field(1.0, ge=0.0, le=10.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(16, ge=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = Field(None, ge=0, le=5)
    return_token_ids: bool = False
    echo: bool = False
    stream: bool = False

    def refuse_unsupported(self, end_id: int) -> None:
        """Says no to what would otherwise be silently left out.

        Errors:
            ApiError: another end than the model's end token, an echo or a stream is asked for.
        """
        for name in ("stop", "echo", "stream"):
            if getattr(self, name):
                raise ApiError(400, f"{name!r} is not supported here; leave it out.", name)
        if (self.stop_token_ids or self.ignore_eos) and self.stop_token_ids != [end_id]:
            raise ApiError(
                400,
                f"A reply ends here at the token {end_id} alone; give stop_token_ids = [{end_id}].",
                "stop_token_ids",
            )

    def sampling(self) -> SamplingSettings:
        """As the decoder takes it."""
        return SamplingSettings(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_response_tokens=self.max_tokens
        )


class AdapterRequest(_Body):
    """POST /v1/load_lora_adapter and /v1/unload_lora_adapter, which needs no path."""

    lora_name: str = Field(min_length=1)
    lora_path: str | None = None


class ScoresRequest(_Body):
    """POST /v1/scores."""

    model: str
    conversations: list[list[ChatMessage]] = Field(max_length=_MOST_CONVERSATIONS)

    def turns(self) -> list[list[Message]]:
        """The conversations as prefloop writes them.

        Errors:
            DataError: one does not end with an assistant turn.
        """
        for number, conversation in enumerate(self.conversations):
            if not conversation or conversation[-1].role != "assistant":
                raise DataError(f"Conversation {number} must end with the assistant turn that is to be scored.")
        return [[message.turn() for message in conversation] for conversation in self.conversations]


def sentence_of(fault: Any) -> tuple[str, str | None]:
    """One sentence for a fault that pydantic found in a body, and the parameter at fault."""
    if fault["type"] == "json_invalid":
        return "The body is not valid JSON; send a JSON object.", None
    path = [str(part) for part in fault["loc"] if part != "body"]
    param = path[0] if path else None
    place = ".".join(part for part in path if part.islower() or part.isdigit())
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if fault["type"] == "missing":
        return f"The parameter {place!r} is missing.", param
    if not place:
        return "The body must be a JSON object, sent with Content-Type: application/json.", None
    return f"The parameter {place!r} is wrong: {message}.", param
