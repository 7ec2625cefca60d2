"""What held-out comparisons say of a policy: which reply it finds more likely, and how often people preferred its own.

Mean log-p accuracy (paper B.3, Figure 34): a policy is right on a comparison where the better reply has the higher mean
log-probability a token. A preference model's accuracy on the same comparisons is its ceiling. Knows no sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.models.responses import reply_logps
from prefloop.render import Renderer
from prefloop.schema import Interval, Message, Noun, PreferencePair, Scorer
from prefloop.stats import clustered_share, win_rate

__all__ = ["LogpAccuracy", "logp_accuracy", "people_win_rate"]

ALL = "all"


class LogpAccuracy(Noun):
    """Accuracies on the same comparisons, all of them and by mode; clusters are conversations."""

    pairs: int
    dropped_long: int = Field(description="comparisons that do not fit a window")
    policy: Mapping[str, Interval]
    base: Mapping[str, Interval]
    ceilings: Mapping[str, Mapping[str, Interval]] = Field(description="by preference model")


def logp_accuracy(
    policy: Any,
    base: Any,
    renderer: Renderer,
    pairs: Sequence[PreferencePair],
    scorers: Mapping[str, Scorer],
    room_tokens: int,
    is_read: Callable[[PreferencePair], bool] = lambda pair: True,
) -> LogpAccuracy:
    """Share of comparisons whose chosen reply has the higher mean log-probability a token; ties count half.

    Args:
        policy, base: causal LMs of one tokenizer, the renderer's.
        scorers: preference models; their accuracies are the ceilings.
        room_tokens: longest context with its reply; longer comparisons are left out and counted.
        is_read: whether the scorers can read a whole comparison; others are left out and counted too.

    Errors:
        DataError: no comparisons, or none that fits.
    """
    kept, contexts, replies = [], [], []
    for pair in pairs:
        context = renderer.context_ids(pair.context)
        sides = [renderer.reply_ids(text) for text in (pair.chosen, pair.rejected)]
        if len(context) + max(map(len, sides)) <= room_tokens and is_read(pair):
            kept.append(pair)
            contexts += [context, context]
            replies += sides
    if not kept:
        raise DataError(
            f"None of the {len(pairs)} held-out comparisons fits the {room_tokens} tokens that the policies read and "
            "what the preference models read; take models with longer windows."
        )
    labels = [pair.conversation_id for pair in kept]
    groups = {ALL: list(range(len(kept)))}
    for place, pair in enumerate(kept):
        groups.setdefault(pair.mode.value, []).append(place)

    def shares(chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, Interval]:
        right = 0.5 + 0.5 * np.sign(np.subtract(chosen, rejected))
        return {
            name: clustered_share(right[places], [labels[place] for place in places]) for name, places in groups.items()
        }

    def of_policy(model: Any) -> dict[str, Interval]:
        logps = reply_logps(model, contexts, replies)
        ends = np.cumsum([len(reply) for reply in replies])[:-1].tolist()
        means = [part.mean().item() for part in logps.tensor_split(ends)]
        return shares(means[::2], means[1::2])

    def of_scorer(scorer: Scorer) -> dict[str, Interval]:
        scores = scorer.score(
            [
                (*pair.context, Message(role="assistant", text=text))
                for pair in kept
                for text in (pair.chosen, pair.rejected)
            ]
        )
        return shares(scores[::2], scores[1::2])

    return LogpAccuracy(
        pairs=len(kept),
        dropped_long=len(pairs) - len(kept),
        policy=of_policy(policy),
        base=of_policy(base),
        ceilings={name: of_scorer(scorer) for name, scorer in scorers.items()},
    )


def people_win_rate(pairs: Iterable[PreferencePair], policy_id: str, base_id: str) -> Interval | None:
    """Share of people's judgments between the two snapshots that prefer the policy's reply; None where there are none.

    Clusters are conversations. The two weakest grades are left out where `Store.pairs` leaves them out.
    """
    outcomes, labels = [], []
    for pair in pairs:
        if {pair.chosen_snapshot_id, pair.rejected_snapshot_id} == {policy_id, base_id} and policy_id != base_id:
            outcomes.append(float(pair.chosen_snapshot_id == policy_id))
            labels.append(pair.conversation_id)
    return win_rate(outcomes, labels) if outcomes else None
