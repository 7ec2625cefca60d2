"""What takes long to find out of texts and needs no judgment, so that another process can do it. Knows no store."""

from __future__ import annotations

from typing import NamedTuple

from prefloop.quality import writing
from prefloop.quality.item_nouns import Texts
from prefloop.quality.measured import Measured
from prefloop.quality.rows import Flags
from prefloop.quality.texts import MOST_TEXTS_FOR_NEAR_COPIES, Openings, TurnSample
from prefloop.quality.topics import Clustering, cluster_openings
from prefloop.quality.turns import check_turns
from prefloop.stats import NearDuplicate


class OwnTexts(NamedTuple):
    """What workers wrote, each held against their own."""

    is_copy: Flags
    """(opening,) whether an earlier opening of the same worker is the same or nearly so."""
    variety: dict[int, Measured]
    """By worker code."""

    @classmethod
    def of(cls, openings: Openings) -> OwnTexts:
        return cls(openings.is_own_copy(), writing.variety(openings))


class TextFacts(NamedTuple):
    """All of it."""

    near: list[NearDuplicate]
    """Among the first different openings, by place."""
    own: OwnTexts
    clustering: Clustering
    turns: Texts | None

    @classmethod
    def of(cls, openings: Openings, turns: TurnSample, seed: int) -> TextFacts:
        return cls(
            openings.near_copies(MOST_TEXTS_FOR_NEAR_COPIES),
            OwnTexts.of(openings),
            cluster_openings(openings.texts, seed),
            check_turns(turns),
        )
