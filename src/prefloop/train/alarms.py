"""Alarms of a policy run: what a row of metrics says is going wrong, and why. Knows numbers alone, no model.

An alarm is raised when its condition begins to hold and again only after it has stopped holding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from prefloop.schema import Interval

RATIO_ERROR_LIMIT = {"float32": 1e-2, "bfloat16": 0.5}
"""How far a probability ratio may be from 1 before the first step on a batch, by the dtype of the update."""
LOGP_DIFFERENCE_LIMIT = {"float32": 1e-4, "bfloat16": 0.05}
"""Nats a token by which log-probabilities may differ there in the mean. Rounding alone is 1e-6 and about 0.01; a single
ratio strays far in bf16, their mean does not, so this is what tells weights of another batch or another temperature."""
LENGTH_FACTOR = 2.0
STOPPED_LOSS = 0.3
ENTROPY_FACTOR = 0.25
LEAST_EPISODES = 16
"""Of a batch whose share of ended replies, or correlation of score and length, can be told from chance at all."""
LENGTH_CORRELATION = 0.9
"""Spearman's rank correlation of score and length within a batch from which on the score says little but length."""
KL_ROUNDING = 1e-2
"""Nats a reply that rounding may take off: log-probabilities carry errors of about 1e-6 in fp32, 1e-2 in bf16."""
SAMPLER_DIFFERENCE = 0.1
"""Nats a token by which, in the mean, a sampler elsewhere may disagree: rounding in bf16 stays well below it."""
KL_LIMIT = 50.0
"""Nats a reply: as far as the best of e^51 replies, log n - (n - 1)/n; a policy that still speaks stays far below."""


class Alarm(NamedTuple):
    """`name` is a word for programs, `reason` one sentence for people."""

    name: str
    reason: str


class Alarms:
    """Watches the rows of one run.

    Args:
        start_tokens, start_stopped: mean length and share of ended replies of the starting policy.
        dtype: of the updates.
        episodes_per_batch: replies behind a row.
        state: of an earlier `state()`, where a run is resumed.
    """

    def __init__(
        self,
        start_tokens: Interval,
        start_stopped: Interval,
        dtype: str,
        episodes_per_batch: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._start_tokens, self._start_stopped = start_tokens.value, start_stopped.value
        self._start_replies, self._batch_replies = start_stopped.n, episodes_per_batch
        self._ratio_limit, self._difference_limit = RATIO_ERROR_LIMIT[dtype], LOGP_DIFFERENCE_LIMIT[dtype]
        self._first_entropy: float | None = None if state is None else state["first_entropy"]
        self._holding: set[str] = set() if state is None else set(state["holding"])
        self.reasons: list[str] = [] if state is None else list(state["reasons"])

    def check_start(
        self,
        left_out: int,
        prompts: int,
        room_tokens: int,
        max_response_tokens: int,
        unread: Mapping[str, int] = MappingProxyType({}),
    ) -> list[Alarm]:
        """What is wrong before the first batch: prompts that do not fit, a policy that does not end its replies.

        Args:
            left_out: of all prompts, those of `unread` among them.
            unread: how many a preference model cannot read with a reply, by its name.
        """
        begun = []
        if left_out:
            why = [
                f"{name[0].lower()}{name[1:]} cannot read {count} of them with a reply behind"
                for name, count in unread.items()
            ]
            if left_out > sum(unread.values()):
                last_turn = "their last turn alone" if not unread else "the last turn of the others alone"
                why.append(f"{last_turn} is longer than the {room_tokens} tokens that the window leaves beside a reply")
            begun.append(
                Alarm(
                    "prompts_too_long",
                    f"{left_out} of {prompts} prompts were left out, because {' and '.join(why)}; lower "
                    "max_response_tokens or take a model with a longer window.",
                )
            )
        if self._start_stopped == 0:
            begun.append(
                Alarm(
                    "no_end_token",
                    f"none of the starting policy's evaluated replies wrote its end token within "
                    f"{max_response_tokens} tokens: it never learned to (train it on replies with `train lm`), or "
                    "max_response_tokens is too low.",
                )
            )
        self.reasons += [f"{alarm.name} at 0 episodes: {alarm.reason}" for alarm in begun]
        return begun

    def check(self, row: Mapping[str, float]) -> list[Alarm]:
        """The alarms that begin with this row."""
        if self._first_entropy is None:
            self._first_entropy = row["policy/entropy"]
        found = list(self._conditions(row))
        begun = [alarm for alarm in found if alarm.name not in self._holding]
        self._holding = {alarm.name for alarm in found}
        self.reasons += [f"{alarm.name} at {row['episodes']:,} episodes: {alarm.reason}" for alarm in begun]
        return begun

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {"first_entropy": self._first_entropy, "holding": sorted(self._holding), "reasons": self.reasons}

    def _conditions(self, row: Mapping[str, float]) -> Iterator[Alarm]:
        ratio_error = row.get("policy/ratio_first_error", 0.0)
        first_difference = row.get("policy/logp_first_difference", 0.0)
        if ratio_error > self._ratio_limit or first_difference > self._difference_limit:
            yield Alarm(
                "ratio_not_one",
                f"before the first step on a batch a probability ratio is {ratio_error:.2g} away from 1 (limit "
                f"{self._ratio_limit:g}) and log-probabilities differ by {first_difference:.2g} nats a token in the "
                f"mean (limit {self._difference_limit:g}): sampling and training compute different log-probabilities; "
                "sample at temperature 1 without top-p or top-k, from the same weights and dtype.",
            )
        difference = row.get("sampler/mean_difference", 0.0)
        if difference > SAMPLER_DIFFERENCE:
            yield Alarm(
                "sampler_disagrees",
                f"the server that draws the replies gives their tokens other log-probabilities than the policy, by "
                f"{difference:.2g} nats a token (limit {SAMPLER_DIFFERENCE:g}): it samples from other weights; see "
                "which model it serves, and whether it takes the weights that it is sent.",
            )
        kl, error = row["kl/k1"], row["kl/k1_standard_error"]
        if kl + 3 * error < -KL_ROUNDING:
            yield Alarm(
                "negative_kl",
                f"the KL estimate is {kl:.3g} nats a reply, more than 3 standard errors ({error:.2g}) below 0, which "
                "no policy can be: the replies were not drawn from the policy that scored them.",
            )
        if kl - 3 * error > KL_LIMIT:
            yield Alarm(
                "kl_blown_up",
                f"the policy is {kl:.3g} nats a reply away from where it started (limit {KL_LIMIT:g}): nothing of its "
                "start is left, and no preference model knows such replies; lower learning_rate, raise kl_coefficient, "
                "and begin anew or deploy an earlier snapshot.",
            )
        follows = row.get("score/length_correlation", 0.0)
        if self._is_surely_beyond(abs(follows), LENGTH_CORRELATION):
            yield Alarm(
                "score_follows_length",
                f"the rank correlation of score and reply length is {follows:.2f} (limit {LENGTH_CORRELATION:g}): the "
                f"preference model rewards {'long' if follows > 0 else 'short'} replies and little else; compare it "
                "with the length baseline (`eval preference`) and train it anew.",
            )
        tokens, stopped = row["reply/tokens"], row["reply/stopped"]
        if tokens > LENGTH_FACTOR * self._start_tokens:
            yield Alarm(
                "exploding_length",
                f"replies have {tokens:.0f} tokens on average, the start's {self._start_tokens:.0f}: the preference "
                "model may reward length; look at its accuracy on pairs where the longer reply lost.",
            )
        if stopped < self._start_stopped - STOPPED_LOSS and self._has_surely_fallen(stopped):
            yield Alarm(
                "replies_do_not_stop",
                f"{stopped:.0%} of the replies end by themselves, {self._start_stopped:.0%} did at the start; raise "
                "no_end_penalty or max_response_tokens.",
            )
        entropy = row["policy/entropy"]
        if self._first_entropy is not None and entropy < ENTROPY_FACTOR * self._first_entropy:
            yield Alarm(
                "collapsed_entropy",
                f"the policy's entropy is {entropy:.2g} nats a token, {self._first_entropy:.2g} in the first batch: it "
                "says nearly one thing; raise kl_coefficient, lower learning_rate, or deploy an earlier snapshot.",
            )

    def _is_surely_beyond(self, correlation: float, limit: float) -> bool:
        """Whether a rank correlation is more than 3 standard errors above a limit, after Fisher's transformation.

        Source of the error: Bonett & Wright 2000, "Sample size requirements for estimating correlations".
        """
        if self._batch_replies < LEAST_EPISODES or not correlation > limit:
            return False
        error = math.sqrt((1 + correlation**2 / 2) / (self._batch_replies - 3))
        return correlation >= 1 or math.atanh(correlation) - 3 * error > math.atanh(limit)

    def _has_surely_fallen(self, stopped: float) -> bool:
        """Whether the share of ended replies is more than 3 standard errors of the difference below the start's."""
        if self._batch_replies < LEAST_EPISODES:
            return False
        before, now = self._start_replies, self._batch_replies
        pooled = (before * self._start_stopped + now * stopped) / (before + now)
        error = math.sqrt(pooled * (1 - pooled) * (1 / before + 1 / now))
        return self._start_stopped - stopped > 3 * error
