"""What a study is made of, as its researcher writes it in a TOML file. Knows neither the store nor the page.

`StudySettings` begins a study; `StudyPhases`, a part of it, is what stands around the chat tasks: consent,
instructions, the questions before and after, tags and the end. Phases may be set again while the study runs: every
setting is kept as a revision of its own, with a version, and who agreed to which text is kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from prefloop.config import Config
from prefloop.schema import Mode, Pacing, SamplingSettings, Tranche

ID = r"^[a-z0-9][a-z0-9_]{0,39}$"
Text = Annotated[str, Field(max_length=40_000)]
Label = Annotated[str, Field(min_length=1, max_length=300)]


def _twice(ids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            return id
        seen.add(id)
    return None


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc


class Tag(Config):
    """One reason or kind of fault that a worker may name."""

    id: str = Field(pattern=ID, description="what is stored")
    label: Label = Field(description="what the worker reads")


class Question(Config):
    """One question at the end of a task."""

    id: str = Field(pattern=ID, description="what is stored")
    text: Label = Field(description="what the worker reads")
    kind: Literal["scale", "text"] = Field("scale", description="'scale' from 1 to `steps`, or a few words")
    steps: int = Field(5, ge=2, le=10, description="points of a scale")
    low: str = Field("", max_length=80, description="what 1 means")
    high: str = Field("", max_length=80, description="what the last point means")


class PracticeItem(Config):
    """One practice turn: two answers whose comparison is settled, and what is said after the worker's own grade."""

    id: str = Field(pattern=ID, description="what is stored")
    message: Text = Field(min_length=1, description="what a person asked")
    answer_a: Text = Field(min_length=1, description="Markdown, shown as A")
    answer_b: Text = Field(min_length=1, description="Markdown, shown as B")
    pick: Literal["a", "b", "same"] = Field(description="the side to pick under the mode's question, or the middle")
    feedback: Text = Field(min_length=1, description="Markdown, why")

    def is_right(self, grade: int) -> bool:
        """Whether a grade from 1 to 8 says the same; the two middle grades are right where nothing decides."""
        return picked_by(grade) == self.pick


def picked_by(grade: int) -> Literal["a", "b", "same"]:
    """What a grade from 1 to 8 says of a pair; the two middle grades say that nothing decides."""
    return "a" if grade <= 3 else "b" if grade >= 6 else "same"


class HelpLink(Config):
    """Where somebody can turn to."""

    label: Label = Field(description="what the worker reads")
    url: str = Field(max_length=400, description="https address")

    @model_validator(mode="after")
    def _is_address(self) -> Self:
        if not _is_web_address(self.url):
            raise ValueError(f"url is {self.url!r} and must be an https address")
        return self


class CareSettings(Config):
    """What a red-team study does for the people who read its texts."""

    topics: tuple[Tag, ...] = Field((), max_length=24, description="own topics to opt out of; empty: built-in ones")
    covers: Literal["off", "reviews", "all"] = Field(
        "reviews",
        description="texts that stay covered until they are asked for: none, those of other people's conversations, "
        "or all answers; each worker may choose otherwise",
    )
    break_minutes: float | None = Field(
        20.0, gt=0.0, description="reading time after which a break is offered; empty is never"
    )
    feelings_every_tasks: int | None = Field(
        3, ge=1, description="tasks after which a worker is asked how they feel; empty is never"
    )
    help_links: tuple[HelpLink, ...] = Field(
        (), max_length=8, description="own places to turn to; empty: built-in ones"
    )


class CheckSettings(Config):
    """Pairs among the tasks whose answer is known in some way; they look like second opinions and train nothing."""

    gold_share: float = Field(
        0.0, ge=0.0, le=0.5, description="gold items (whose answer researchers gave) for each judgment of a worker"
    )
    repeat_share: float = Field(
        0.0, ge=0.0, le=0.5, description="own pairs that come again, sides swapped, for each judgment of a worker"
    )
    repeat_after: int = Field(6, ge=1, description="newer judgments before a pair may come again")
    calibration_judges: int = Field(
        1, ge=1, description="researchers who judge a calibration item before new workers see it"
    )


class StudyPhases(Config):
    """`prefloop study phases STUDY PHASES.toml`: what a study shows and asks around its chat tasks."""

    consent: Text = Field(
        "", description="Markdown; with a text here nobody works before agreeing to it. Empty shows the built-in one"
    )
    consent_version: str = Field("1", min_length=1, max_length=40, description="of an own consent text")
    instructions: Text = Field("", description="Markdown, the short first view; empty: the study's own, or built in")
    full_instructions: Text = Field("", description="Markdown, the expanded page; empty: built in")
    instructions_version: str = Field("1", min_length=1, max_length=40, description="of own instructions")
    tasks_per_worker: int | None = Field(
        None, ge=1, description="conversations after which a worker is done; empty is no end"
    )
    practice: Literal["ask", "require", "off"] = Field(
        "ask", description="practice turns with feedback before the first task; 'require' takes no work before them"
    )
    practice_items: tuple[PracticeItem, ...] = Field(
        (), max_length=12, description="own practice turns; empty: the mode's"
    )
    care: CareSettings = CareSettings()
    checks: CheckSettings = CheckSettings()
    most_per_worker: int | None = Field(None, ge=1, description="judgments of one worker in the study; empty is no end")
    most_per_hour: int | None = Field(None, ge=1, description="judgments of one worker in an hour; empty is no limit")
    goal: Literal["ask", "require", "off"] = Field(
        "ask", description="red team: what the attack is after, before the first message"
    )
    closing: Literal["ask", "require", "off"] = Field("ask", description="the questions at the end of a conversation")
    questions: tuple[Question, ...] = Field(
        (), max_length=12, description="own closing questions; empty: the mode's (a rating and a comment; red team: 3)"
    )
    reasons: tuple[Tag, ...] = Field((), max_length=16, description="own reasons for a grade; empty: the mode's")
    faults: tuple[Tag, ...] = Field(
        (), max_length=16, description="own tags for passages; empty: wrong fact, unsafe, unclear ..."
    )
    pacing: Pacing = Field(
        "synchronised",
        description="'synchronised' shows both answers at the pace of the slower one, 'raw' each at its own, "
        "'reveal_at_end' both at once; a turn with a best-of-k snapshot is always revealed at the end",
    )
    edits: bool = Field(
        True, description="a worker may better the answer that a conversation goes on with: edited > original is kept"
    )
    completion_code: str = Field("", max_length=80, description="shown at the end, for the platform people came from")
    completion_url: str = Field("", max_length=400, description="https address that the end page leads back to")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        named: dict[str, Iterable[Tag | Question | PracticeItem]] = {
            "questions": self.questions,
            "reasons": self.reasons,
            "faults": self.faults,
            "practice_items": self.practice_items,
            "care.topics": self.care.topics,
        }
        for name, items in named.items():
            if (twice := _twice(item.id for item in items)) is not None:
                raise ValueError(f"{name} has the id {twice!r} twice; give each its own")
        if self.completion_url and not _is_web_address(self.completion_url):
            raise ValueError(f"completion_url is {self.completion_url!r} and must be an https address")
        return self


class StudySettings(Config):
    """`prefloop study add STUDY.toml`: a collection task from its mode to its end page."""

    name: str = Field(min_length=1, max_length=200, description="of the study; people see it")
    mode: Mode = Field(Mode.HELPFUL, description="what people are asked")
    tranche: Tranche = Field(Tranche.ONLINE, description="kind of the snapshots that answer")
    snapshots: tuple[str, ...] = Field((), description="names of the snapshots that answer; empty: all deployed ones")
    weights: tuple[float, ...] = Field((), description="of the snapshots, in their order; empty: the same for all")
    compare: Literal["any", "distinct"] = Field("any", description="'distinct' always shows two different snapshots")
    continue_with: Literal["clicked", "other", "random", "worker_choice"] = Field(
        "clicked", description="which answer a conversation goes on with"
    )
    overlap: float = Field(0.0, ge=0.0, le=1.0, description="share of comparisons that more workers judge too")
    overlap_judges: int = Field(2, ge=2, le=20, description="workers who judge each of them, the first one included")
    sampling_temperature: float = Field(SamplingSettings().temperature, ge=0.0, le=10.0, description="of the answers")
    max_response_tokens: int = Field(SamplingSettings().max_response_tokens, ge=1, description="longest answer")
    turns_per_conversation: int = Field(4, ge=1, description="comparisons in one conversation")
    target_comparisons: int | None = Field(None, ge=1, description="judged comparisons wanted; empty is no end")
    phases: StudyPhases = StudyPhases()

    @model_validator(mode="after")
    def _weights_match(self) -> Self:
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"weights has {min(self.weights)}; each must be above 0")
        if self.weights and len(self.weights) != len(self.snapshots):
            raise ValueError(f"{len(self.weights)} weights stand beside {len(self.snapshots)} snapshots; give one each")
        return self
