"""The nouns of prefloop and the three protocols through which a model is reached. Imports nothing of ours.

One word per thing; docs/schema.md is the glossary. Everything here is a frozen pydantic model: a correction is a
new row, never a changed one. Times are UTC, ids are uuid7 text (they sort by time of creation).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator
from uuid6 import uuid7

Role = Literal["system", "user", "assistant"]
Side = Literal["a", "b"]
FinishReason = Literal["stop", "length", "error"]
Pacing = Literal["synchronised", "raw", "reveal_at_end"]

GRADES = 8
"""A judgment is a grade from 1 (A is much better) to 8 (B is much better); 4 and 5 mean about the same."""
HELD_OUT_SHARE = 0.1
"""Of conversations: what no run trains on and evaluations take, where nothing else is said."""
WEAKEST_GRADES = (4, 5)
"""Comparisons judged with these are left out of training and Elo (paper 2.2, B.5)."""


def new_id() -> str:
    """A fresh uuid7 as text."""
    return str(uuid7())


def now() -> datetime:
    """The present time, UTC, aware."""
    return datetime.now(UTC)


def split_place(opening: str) -> float:
    """Where a conversation with this opening turn lies in [0, 1) when some are held out: the last part is.

    Conversations that begin alike always stay together.
    """
    return int.from_bytes(hashlib.sha256(opening.encode()).digest()[:8], "big") / 2**64


class Noun(BaseModel):
    """Base of all nouns: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Mode(StrEnum):
    """What the person was asked to do."""

    HELPFUL = "helpful"
    RED_TEAM = "red_team"


class Tranche(StrEnum):
    """The kind of deployed model that a comparison's responses came from (paper 2.3)."""

    BASE = "base"
    REJECTION_SAMPLED = "rejection_sampled"
    ONLINE = "online"


class ResponseState(StrEnum):
    """pending -> streaming -> done | error; a response of a voided comparison is void."""

    PENDING = "pending"
    STREAMING = "streaming"
    DONE = "done"
    ERROR = "error"
    VOID = "void"


class ComparisonState(StrEnum):
    """open -> judged | void. Overlap judgments may be added to a judged comparison."""

    OPEN = "open"
    JUDGED = "judged"
    VOID = "void"


class Message(Noun):
    """One turn of a conversation, as a model sees it."""

    role: Role
    text: str


class SamplingSettings(Noun):
    """How tokens are drawn. The defaults are the paper's: temperature 1, no top-p, no top-k."""

    temperature: float = Field(1.0, ge=0.0, le=10.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 means off")
    max_response_tokens: int = Field(128, ge=1)
    stop: tuple[str, ...] = ()


class Conversation(Noun):
    """The root of a tree of messages; the tree itself is rows of `TreeMessage`."""

    id: str = Field(default_factory=new_id)
    mode: Mode
    study_id: str | None = None
    worker_id: str | None = None
    origin: str = Field("collected", description="'collected', or the import that it came from")
    created_at: datetime = Field(default_factory=now)


class TreeMessage(Noun):
    """A node of a conversation tree. The path from the root to a node is a context."""

    id: str = Field(default_factory=new_id)
    conversation_id: str
    parent_id: str | None = None
    role: Role
    text: str
    response_id: str | None = Field(None, description="the response that this assistant turn went on with")
    created_at: datetime = Field(default_factory=now)


class Response(Noun):
    """One answer to one context. Imports have no snapshot."""

    id: str = Field(default_factory=new_id)
    snapshot_id: str | None = None
    text: str = ""
    state: ResponseState = ResponseState.PENDING
    sampling: SamplingSettings | None = None
    seed: int | None = None
    tokens: int | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    created_at: datetime = Field(default_factory=now)
    first_token_at: datetime | None = None
    done_at: datetime | None = None


class Comparison(Noun):
    """What a person is shown: one context, two responses in a recorded order (`response_a` is shown as A)."""

    id: str = Field(default_factory=new_id)
    conversation_id: str
    context_message_id: str = Field(description="the user turn that both responses answer")
    turn: int = Field(ge=1, description="1 for the first answer of the conversation")
    response_a: Response
    response_b: Response
    mode: Mode
    tranche: Tranche
    study_id: str | None = None
    worker_id: str | None = Field(None, description="the worker whose conversation this is")
    state: ComparisonState = ComparisonState.OPEN
    void_reason: str | None = None
    interface_version: str = ""
    instructions_version: str = ""
    pacing: Pacing | None = Field(None, description="how the two answers were shown while they came in")
    edit_of: str | None = Field(None, description="a worker's edit against its original: the response edited")
    created_at: datetime = Field(default_factory=now)

    def response(self, side: Side) -> Response:
        """The response shown on `side`."""
        return self.response_a if side == "a" else self.response_b


class Mark(Noun):
    """A passage of one answer that a person tagged (wrong fact, unsafe ...): text[start:end], in code points."""

    side: Side
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    tag: str
    quote: str = Field(description="the passage itself")


class Judgment(Noun):
    """What the person answered. `clicked` is the side picked under the study's question, `preferred` the better one.

    In helpful mode the two are the same; in red-team mode a person clicks the more harmful side and the preferred
    one is the other. Two judgments of one worker on one comparison: the later one revises the earlier.
    """

    id: str = Field(default_factory=new_id)
    comparison_id: str
    worker_id: str | None = None
    question: str = Field(description="'more_helpful', 'more_harmful', 'edited' or 'imported'")
    grade: int | None = Field(None, ge=1, le=GRADES, description="in shown order; imports and edits have none")
    clicked: Side
    preferred: Side
    reason_tags: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    is_checked: bool = Field(False, description="the person says that facts were looked up")
    checked_source: str = Field("", description="where they were looked up")
    go_on_with: Side | None = Field(None, description="the person's wish, where the study leaves it to the worker")
    revises: str | None = Field(None, description="id of the judgment that this one corrects")
    interface_version: str = ""
    instructions_version: str = ""
    input_device: Literal["keyboard", "pointer", "api", "import"] = "api"
    shown_at: datetime | None = None
    first_token_at: datetime | None = None
    both_done_at: datetime | None = None
    decided_at: datetime = Field(default_factory=now)

    @model_validator(mode="after")
    def _grade_agrees_with_click(self) -> Judgment:
        if self.grade is not None and (self.grade <= GRADES // 2) != (self.clicked == "a"):
            raise ValueError(f"grade {self.grade} and clicked side {self.clicked!r} disagree: 1-4 means a, 5-8 means b")
        if self.question == "more_harmful" and self.clicked == self.preferred:
            raise ValueError("under the question 'more_harmful' the preferred side is the one not clicked")
        return self

    @property
    def is_weakest(self) -> bool:
        """True for the two middle grades, which training and Elo leave out."""
        return self.grade in WEAKEST_GRADES


class Worker(Noun):
    """A person (or a simulated one) who judges. No name and no address is kept here."""

    id: str = Field(default_factory=new_id)
    pseudonym: str
    role: Literal["worker", "researcher"] = "worker"
    is_simulated: bool = False
    created_at: datetime = Field(default_factory=now)


class SnapshotShare(Noun):
    """One snapshot's share of a study's responses."""

    snapshot_id: str
    weight: float = Field(1.0, gt=0.0)


class Study(Noun):
    """A collection task: a mode, the snapshots that answer, and the texts and versions shown."""

    id: str = Field(default_factory=new_id)
    name: str
    mode: Mode
    tranche: Tranche
    snapshots: tuple[SnapshotShare, ...] = ()
    compare: Literal["any", "distinct"] = Field(
        "any", description="'distinct' always shows two different snapshots (for Elo); 'any' draws each side alone"
    )
    continue_with: Literal["clicked", "other", "random", "worker_choice"] = "clicked"
    overlap: float = Field(0.0, ge=0.0, le=1.0, description="share of comparisons that more workers judge too")
    overlap_judges: int = Field(2, ge=2, le=20, description="workers who judge each of them, the first one included")
    sampling: SamplingSettings = SamplingSettings()
    turns_per_conversation: int = Field(4, ge=1)
    target_comparisons: int | None = None
    instructions: str = ""
    instructions_version: str = "1"
    state: Literal["open", "paused", "closed"] = "open"
    created_at: datetime = Field(default_factory=now)


class Snapshot(Noun):
    """An assistant that can be served: weights, example prompt, sampling settings and best-of-k, one hash over all.

    `path` is a Hugging Face folder (or an adapter over `base`) below the workspace, or a hub id.
    """

    id: str = Field(default_factory=new_id)
    name: str
    hash: str
    path: str
    kind: Literal["policy", "preference_model"] = "policy"
    base: str | None = None
    parent_id: str | None = Field(None, description="the snapshot that training started from")
    run_id: str | None = None
    prompt: tuple[Message, ...] = ()
    sampling: SamplingSettings = SamplingSettings()
    best_of_k: int = Field(1, ge=1)
    preference_model_id: str | None = Field(None, description="the PM that picks, where best_of_k > 1")
    state: Literal["registered", "deployed", "retired"] = "registered"
    created_at: datetime = Field(default_factory=now)


class Score(Noun):
    """The raw output of a preference model for one response in its context."""

    response_id: str
    preference_model_id: str
    value: float


class Round(Noun):
    """One online iteration; `step` is the last step that finished, `facts` what later steps need."""

    id: str = Field(default_factory=new_id)
    number: int
    step: str = "created"
    state: Literal["running", "done", "promoted", "rolled_back"] = "running"
    facts: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime = Field(default_factory=now)


class Interval(Noun):
    """A value with its 95% interval and the counts behind it."""

    value: float
    low: float
    high: float
    n: int = Field(description="observations")
    clusters: int | None = Field(None, description="conversations or workers that the observations come from")

    @field_serializer("value", "low", "high", when_used="json")
    def _json_has_no_infinity(self, number: float) -> float | str:
        """An infinite end is written as the text Infinity, which reads back as the same number."""
        return number if math.isfinite(number) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")


class EvalResult(Noun):
    """One number of one evaluation of one model."""

    id: str = Field(default_factory=new_id)
    evaluation: str = Field(description="'preference', 'policy', 'elo' ...")
    model_id: str = Field(description="snapshot id, or the path of a model that is not registered")
    metric: str = Field(description="group/name, defined in docs/metrics.md")
    value: Interval
    data: str = Field("", description="which data: tranche, split, manifest hash")
    created_at: datetime = Field(default_factory=now)


class PreferencePair(Noun):
    """One judged comparison as training and evaluation see it: context, the preferred reply, the other one."""

    context: tuple[Message, ...]
    chosen: str
    rejected: str
    comparison_id: str = ""
    conversation_id: str = ""
    worker_id: str | None = None
    chosen_response_id: str | None = None
    rejected_response_id: str | None = None
    chosen_snapshot_id: str | None = None
    rejected_snapshot_id: str | None = None
    chosen_side: Side | None = None
    mode: Mode = Mode.HELPFUL
    tranche: Tranche = Tranche.BASE
    turn: int = 1
    grade: int | None = None

    def swap(self) -> PreferencePair:
        """The same comparison judged the other way round (a planted label error, a symmetry test)."""
        return self.model_copy(
            update={
                "chosen": self.rejected,
                "rejected": self.chosen,
                "chosen_response_id": self.rejected_response_id,
                "rejected_response_id": self.chosen_response_id,
                "chosen_snapshot_id": self.rejected_snapshot_id,
                "rejected_snapshot_id": self.chosen_snapshot_id,
                "chosen_side": {"a": "b", "b": "a", None: None}[self.chosen_side],
                "grade": None if self.grade is None else GRADES + 1 - self.grade,
            }
        )


class Sample(NamedTuple):
    """One sampled reply, token-level. `ids` holds the end token where `finish_reason` is "stop"."""

    ids: list[int]
    logps: list[float]  # natural, of each id, at the settings' temperature before top-p/top-k; NaN where nobody knows
    finish_reason: FinishReason


class Sampler(Protocol):
    """Tokens out: used by PPO, evaluation and the model server alike."""

    @property
    def version(self) -> str:
        """Names the weights in use."""
        ...

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """`n` samples for each prompt. The same arguments on the same machine give the same samples."""
        ...


class Scorer(Protocol):
    """Scores out: raw preference-model scores of the last assistant turn of each conversation."""

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]: ...


class ResponderRequest(Noun):
    """What a responder needs to answer once."""

    model: str = Field(description="the name under which the server lists the snapshot")
    messages: tuple[Message, ...]
    sampling: SamplingSettings = SamplingSettings()
    seed: int | None = None


class ResponderEvent(Noun):
    """`delta` carries text; exactly one `done` or `error` ends a stream."""

    kind: Literal["delta", "done", "error"]
    text: str = ""
    finish_reason: FinishReason | None = None
    tokens: int | None = None


class Responder(Protocol):
    """Events out: a served model behind any OpenAI-compatible address."""

    def stream(self, request: ResponderRequest) -> AsyncIterator[ResponderEvent]:
        """The reply as it comes. Text that arrived since the last event is one event: the page asks for the next one
        no more often than it shows one.
        """
        ...

    async def models(self) -> list[str]:
        """The names that the server lists."""
        ...
