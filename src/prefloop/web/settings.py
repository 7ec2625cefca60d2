"""Settings of the page: its time limits. Knows nothing of studies, which bring their own settings."""

from __future__ import annotations

from pydantic import Field

from prefloop.config import Config, Seed


class PageSettings(Config):
    """What a deployment may tune; the defaults suit a person in front of a browser."""

    flush_seconds: float = Field(0.04, ge=0.0, le=1.0, description="pause between two pieces of text on a stream")
    heartbeat_seconds: float = Field(15.0, gt=0.0, description="pause after which a silent stream sends a comment")
    stall_timeout_seconds: float = Field(60.0, gt=0.0, description="longest silence of a model before the pair is void")
    answer_timeout_seconds: float = Field(180.0, gt=0.0, description="longest time for one whole answer")
    undo_seconds: float = Field(120.0, ge=0.0, description="how long a judgment may be changed")
    lease_seconds: float = Field(900.0, gt=0.0, description="how long a second opinion is kept for one worker")
    place_seconds: float = Field(
        3600.0, gt=0.0, description="how long an open pair keeps its place in a study that is full otherwise"
    )
    session_days: float = Field(30.0, gt=0.0, description="how long a worker's browser stays signed in")
    researcher_session_hours: float = Field(12.0, gt=0.0, description="how long a researcher stays signed in")
    setup_link_hours: float = Field(72.0, gt=0.0, description="how long a link that sets up an account is good")
    cache_seconds: float = Field(2.0, ge=0.0, description="how long a session, study or snapshot is not read again")
    quality_seconds: float = Field(600.0, ge=0.0, description="age at which the live quality page is made anew")
    max_message_chars: int = Field(8000, ge=1, description="longest message that a worker may send")
    seed: Seed | None = Field(
        None, description="seeds the draws of snapshots, sides and answers; empty uses the system"
    )
