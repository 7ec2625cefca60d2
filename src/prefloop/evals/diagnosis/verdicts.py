"""From evidence to causes: what each symptom speaks for, in the order in which a cause explains the others.

A PM that reads another template looks like one at chance, a policy blown up by its optimiser looks far from the PM's
data, and so on: the first finding is named. Knows numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prefloop.evals.diagnosis.limits import (
    BARELY_AGREES,
    BARELY_LEARNED,
    CHANCE,
    CLIPPED,
    EXPLAINED,
    FAR,
    FAR_NATS,
    LEAST_BATCHES,
    LEAST_LEARNED_BATCHES,
    LENGTH_RULES,
    LOST_NATS,
    MOVED,
    OFTEN,
    SAVES_NATS,
    STARVED,
    STILL,
    WORSE,
)
from prefloop.evals.diagnosis.nouns import Cause, Diagnosis, Evidence, Finding
from prefloop.report import format_interval, format_number
from prefloop.schema import Interval


class _TooShort(NamedTuple):
    """A question that the run is too short to answer."""

    question: str
    why: str


def diagnose(run: str, evidence: Evidence) -> Diagnosis:
    """What the evidence says. A question that cannot be answered is left out, and named among what is unknown."""
    checks: Sequence[tuple[str, Callable[[Evidence], Iterator[Finding | _TooShort]]]] = (
        ("policy and PMs write conversations alike", _template),
        ("the optimiser moves the policy, and not too far at once", _optimiser),
        ("the score is not won by length, repetition or one phrase", _gamed),
        ("the PM tells this policy's answers apart as other judges do", _chance),
        ("the PM is among texts of the kind that it learned from", _distribution),
        ("what it learns on its training prompts holds on others", _data),
        ("the value model helps", _value),
        ("the policy can do what the PM asks for", _policy),
    )
    findings: list[Finding] = []
    healthy: list[str] = []
    unknown = dict(evidence.unknown)
    for sentence, check in checks:
        found = list(check(evidence))
        findings += [one for one in found if isinstance(one, Finding)]
        unknown |= {one.question: one.why for one in found if isinstance(one, _TooShort)}
        if not found:
            healthy.append(sentence)
    named = findings[0] if findings else None
    return Diagnosis(
        run=run,
        cause=None if named is None else named.cause,
        answer=_answer(named),
        findings=tuple(findings),
        healthy=tuple(healthy),
        evidence=evidence.model_copy(update={"unknown": unknown}),
    )


def _short(e: Evidence, least: int = LEAST_BATCHES, must_move: bool = True) -> str:
    """Why the run is too short to hold anything against it that it did not do; empty where it is long enough."""
    if e.batches is None or e.batches < least:
        return f"the run is too short to tell: {e.batches or 0} batches, where {least} are needed."
    if must_move and (e.kl is None or e.kl.low <= STILL):
        where = "an unknown number of" if e.kl is None else format_interval(e.kl)
        return f"the run is too short to tell: the policy is {where} nats a reply from its start, not surely {STILL}."
    return ""


def _answer(named: Finding | None) -> str:
    if named is None:
        return "Neither: nothing was found to be wrong with the PM, the policy or its training."
    who = {
        "PM": "It is the PM",
        "policy": "It is the policy",
        "optimiser": "It is the optimiser",
        "data": "It is the data",
    }
    return f"{who[named.side]}: {named.sentence}"


def _template(e: Evidence) -> Iterator[Finding]:
    evidence = []
    if e.same_vocabulary and len(set(e.formats.values())) > 1:
        listed = ", ".join(f"{name} {text}" for name, text in e.formats.items())
        evidence.append(f"The models have one vocabulary and write conversations in different ways: {listed}.")
    for name, saved in e.other_layout.items():
        if saved.low > SAVES_NATS:
            evidence.append(
                f"{name} reads the same turns better by {format_interval(saved)} nats a token when they are written "
                "another way."
            )
    if (
        e.learned is not None
        and e.reread is not None
        and _is_at_chance(e.reread)
        and _is_surely_above(e.learned, e.reread)
    ):
        evidence.append(
            f"The PM was right in {format_interval(e.learned)} of its training pairs before it had learned them, and "
            f"is in {format_interval(e.reread)} of some of them now: it does not read what it was trained on."
        )
    if evidence:
        yield Finding(
            cause="template_mismatch",
            side="data",
            sentence="the models do not read conversations as they were trained to (tokenizer or chat template).",
            evidence=tuple(evidence),
            next=(
                "Put back the tokenizer and chat template that each model was saved with, and train the policy again.",
                "Look at one conversation as ids under each tokenizer: headers and end tokens must be the same as in "
                "training.",
            ),
        )


def _optimiser(e: Evidence) -> Iterator[Finding | _TooShort]:
    blown, still = [], []
    if e.clip_fraction is not None and e.clip_fraction > CLIPPED:
        blown.append(f"{e.clip_fraction:.0%} of the probability ratios were clipped; a few percent are usual.")
    if e.moved_kl is not None and e.moved_kl > MOVED:
        blown.append(f"One batch moved the policy by {format_number(e.moved_kl)} nats a token.")
    far = e.kl is not None and e.kl.low > FAR_NATS and e.rise is not None and e.best_of_16 is not None
    if e.kl is not None and (blown or (far and _is_below(e.rise, e.best_of_16))):
        blown.append(
            f"The last snapshot is {format_interval(e.kl)} nats a reply from the start; the best of 16 answers is at "
            "most 1.84 nats away."
        )
    lost = e.kl is not None and e.kl.low > LOST_NATS
    if blown and not lost and e.rise is not None and e.rise.low > 0.3:
        blown = []  # it learns what it is asked to, steps however large
    if e.kl is not None and e.kl.high < STILL and e.rise is not None and e.rise.low <= 0:
        still.append(
            f"After {e.episodes:,} episodes the policy is {format_interval(e.kl)} nats a reply from where it started, "
            f"and the PM's score has changed by {format_interval(e.rise)} deviations."
        )
    if blown:
        yield Finding(
            cause="optimiser_failing",
            side="optimiser",
            sentence="its steps are too large, and the policy is thrown about rather than trained.",
            evidence=tuple(blown + still),
            next=(
                "Divide learning_rate by 10, and again until policy/clip_fraction stays below 0.2.",
                "Add learning_rate_warmup_episodes, or lower epochs.",
            ),
        )
    elif still and (short := _short(e, must_move=False)):
        yield _TooShort("whether the optimiser moves the policy", short)
    elif still:
        yield Finding(
            cause="optimiser_failing",
            side="optimiser",
            sentence="it does not move the policy.",
            evidence=tuple(still),
            next=("Multiply learning_rate by 10.", "Lower kl_coefficient if kl/k1 stays near 0 all the same."),
        )


def _value(e: Evidence) -> Iterator[Finding | _TooShort]:
    """Asked after the PM: no value model predicts the scores of a PM that has nothing to say."""
    if e.explained_variance is None or e.explained_variance >= EXPLAINED or e.rise is None or e.rise.low > 0.05:
        return
    short = _short(e, LEAST_LEARNED_BATCHES)
    if short or e.kl is None:  # without a KL it is too short
        yield _TooShort("whether the value model helps", short)
        return
    yield Finding(
        cause="optimiser_failing",
        side="optimiser",
        sentence="its value model misleads it, so that the policy moves and the score does not.",
        evidence=(
            f"The value model explains {e.explained_variance:.2f} of the returns' variance"
            + (": less than nothing." if e.explained_variance < 0 else ": it is as good as none."),
            f"After {e.episodes:,} episodes the policy is {format_interval(e.kl)} nats a reply from where it started, "
            f"and the PM's score has changed by {format_interval(e.rise)} deviations.",
        ),
        next=("Set gae_lambda to 1, or value_warmup_batches to 4.", "Raise value_learning_rate."),
    )


def _gamed(e: Evidence) -> Iterator[Finding]:
    evidence = []
    ways = []
    length = e.length_correlation
    if length is not None and abs(length.value) > LENGTH_RULES and _interval_beyond(length, LENGTH_RULES - 0.1):
        others = e.length_correlation_held_out
        if others is None or abs(length.value) > abs(others) + 0.2:
            ways.append("length")
            evidence.append(
                f"Among replies of the start to one prompt the PM's score follows their length with correlation "
                f"{format_interval(length)}"
                + ("." if others is None else f"; that of PMs that watch with {others:.2f}.")
            )
            if e.tokens is not None:
                evidence.append(
                    f"Replies went from {format_interval(e.tokens[0])} to {format_interval(e.tokens[1])} tokens."
                )
    not_shared = _is_not_shared(e)
    for name, pair, least in (("repetition", e.repeated, 0.25), ("one phrase", e.commonest, 0.35)):
        if pair is not None and pair[1].low > pair[0].high + least and not_shared:
            ways.append(name)
            evidence.append(
                f"{_SHARES[name]} went from {format_interval(pair[0])} to {format_interval(pair[1])} of the replies."
            )
    if ways and not_shared:
        evidence.append(not_shared)
    if ways:
        yield Finding(
            cause="reward_gamed",
            side="PM",
            sentence=f"its score can be won by {' and '.join(ways)}, and the policy was taught that.",
            evidence=tuple(evidence),
            next=(
                "Look at the PM's accuracy on comparisons whose longer (or more repetitive) reply lost: "
                "prefloop eval preference.",
                "Collect comparisons of this policy's answers and train the PM anew on all of them.",
                "Until then deploy an earlier snapshot: prefloop eval optimisation says which.",
            ),
        )


_SHARES = {"repetition": "A repeated run of four words", "one phrase": "The commonest five words in a row"}


def _is_not_shared(e: Evidence) -> str:
    """A sentence where the PM's rise is not shared by those that watch; empty where it is."""
    if e.rise is None or not e.held_out_rises or e.rise.low <= 0:
        return ""
    least = min(e.held_out_rises.values(), key=lambda rise: rise.value)
    if least.high < 0.5 * e.rise.value:
        return (
            f"The PM's score rose by {format_interval(e.rise)} deviations, a watching PM's by {format_interval(least)}."
        )
    return ""


def _chance(e: Evidence) -> Iterator[Finding]:
    evidence = []
    for value, what in (
        (e.judged, "people's judgments of this policy's answers"),
        (e.gold, "the known preference on the start's answers"),
    ):
        if value is not None and value.high < BARELY_AGREES:
            evidence.append(f"The PM agrees with {what} in {format_interval(value)} of pairs.")
    if e.learned is not None and _is_at_chance(e.learned):
        evidence.append(
            f"In its own training it was right in {format_interval(e.learned)} of pairs that it had not learned yet."
        )
    for name, agreed in e.agreement.items():
        if agreed.high < BARELY_AGREES:
            evidence.append(f"It orders {format_interval(agreed)} of pairs of the start's answers as {name} does.")
    if not evidence or _is_elsewhere(e):
        return
    small = _is_small(e)
    cause: Cause = "pm_too_small" if small else "pm_near_chance"
    yield Finding(
        cause=cause,
        side="PM",
        sentence="it is near chance on this policy's answers"
        + (", and far too small to tell them apart." if small else ": what it learned is not what people prefer."),
        evidence=(*evidence, *([small] if small else [])),
        next=(
            "Take a larger language model for the PM's start."
            if small
            else "Check the labels: prefloop quality, and a look at twenty comparisons by hand.",
            "Judge some pairs of this policy's answers and evaluate the PM on them: prefloop eval preference.",
            "Train the PM on more comparisons, from a start with PM pre-training.",
        ),
    )


def _is_elsewhere(e: Evidence) -> bool:
    """Where the PM learned it is right, and already the start's answers are of another kind: then that is the cause."""
    return e.far is not None and e.far[0].low > FAR and e.reread is not None and e.reread.low > BARELY_LEARNED


def _is_at_chance(accuracy: Interval) -> bool:
    return accuracy.value < BARELY_LEARNED and accuracy.low <= CHANCE + 0.02


def _is_surely_above(one: Interval, other: Interval) -> bool:
    """The 95% interval of the difference of two independent shares lies above 0."""
    return one.value - other.value > math.hypot(one.value - one.low, other.high - other.value)


def _is_small(e: Evidence) -> str:
    pm, policy = e.parameters.get("PM"), e.parameters.get("policy")
    if pm is None or policy is None or pm > policy / 10:
        return ""
    return f"The PM has {pm:,} parameters, the policy {policy:,}."


def _distribution(e: Evidence) -> Iterator[Finding]:
    if e.far is None:
        return
    first, last = e.far
    disagree = [
        f"It orders {format_interval(agreed)} of pairs as {name} does."
        for name, agreed in e.agreement.items()
        if agreed.value < 0.65
    ]
    not_shared = _is_not_shared(e)
    if (first.low > FAR or last.low > FAR) and (disagree or not_shared):
        evidence = [
            f"{format_interval(first)} of the start's replies and {format_interval(last)} of the last snapshot's lie "
            "further from the PM's training data than 99% of that data itself."
        ]
        if e.score_spread is not None:
            evidence.append(f"Its scores spread {e.score_spread:.2f} times as far as on the start's replies.")
        yield Finding(
            cause="pm_out_of_distribution",
            side="PM",
            sentence="it judges answers of a kind that it was not trained on.",
            evidence=(*evidence, *disagree, *([not_shared] if not_shared else [])),
            next=(
                "Collect comparisons of this policy's answers (prefloop round start) and train the PM on all tranches.",
                "Deploy a snapshot nearer the start until then, or raise kl_coefficient.",
            ),
        )


def _data(e: Evidence) -> Iterator[Finding | _TooShort]:
    """Asked before the value model: what rises on training prompts alone is taught well, and too little of it."""
    if e.rise is None or e.score_trend is None or not _has_room(e):
        return
    is_repeated = e.training_prompts is not None and e.episodes >= OFTEN * e.training_prompts
    if e.score_trend <= e.rise.high + (0.0 if is_repeated else STARVED):
        return
    if short := _short(e):
        yield _TooShort("whether what it learns holds on other prompts", short)
        return
    yield Finding(
        cause="policy_data_starved",
        side="policy",
        sentence="it learned its training prompts and not what to do on others.",
        evidence=(
            f"After {e.episodes:,} episodes the PM's score has changed by {format_interval(e.rise)} deviations.",
            f"On the prompts that it trains on it gained {e.score_trend:.2f}"
            + ("." if e.training_prompts is None else f"; there are {e.training_prompts:,} of them."),
        ),
        next=("Train on more prompts.", "Fewer epochs over each batch, and fewer episodes over these prompts."),
    )


def _has_room(e: Evidence) -> bool:
    """Among the start's answers there are surely better ones to be learned."""
    return e.best_of_16 is not None and e.best_of_16.low > 0.5


def _policy(e: Evidence) -> Iterator[Finding | _TooShort]:
    if e.rise is None or e.best_of_16 is None or not _has_room(e):
        return
    share = e.rise.value / e.best_of_16.value
    lags = e.rise.high < 0.15 * e.best_of_16.value
    evidence = [
        f"The best of 16 answers of the start is {format_interval(e.best_of_16)} deviations better by the PM than the "
        f"average one; after {e.episodes:,} episodes of PPO the policy has gained {format_interval(e.rise)} "
        f"({share:.0%} of that)."
    ]
    worse = e.start_quality is not None and e.start_quality.high < -WORSE
    shallow = _is_shallow(e)
    if lags and not shallow and (short := _short(e, LEAST_LEARNED_BATCHES)):
        yield _TooShort("whether the policy can do what the PM asks for", short)
    elif lags or (shallow and (share < 0.6 or worse)):
        if worse and e.start_quality is not None:
            evidence.append(
                f"The start's answers are {format_interval(e.start_quality)} deviations from the answers that the PM "
                "learned from: a smaller or less trained model than the one that those came from."
            )
        evidence += [shallow] if shallow else []
        yield Finding(
            cause="policy_too_small",
            side="policy",
            sentence="the answers are there among many, and it is too small to learn to give them.",
            evidence=tuple(evidence),
            next=(
                "Take a larger policy, or train on for longer and look whether the score still rises.",
                "Serve best-of-k of the start meanwhile: the PM picks well among its answers.",
            ),
        )


def _is_shallow(e: Evidence) -> str:
    policy, pm = e.layers.get("policy"), e.layers.get("PM")
    size, judge = e.parameters.get("policy"), e.parameters.get("PM")
    if policy is None or pm is None or size is None or judge is None or policy * 2 >= pm or size * 2 > judge:
        return ""
    return f"The policy has {policy} layer{'s' * (policy > 1)} and {size:,} parameters, the PM {pm} and {judge:,}."


def _is_below(rise: Interval | None, best: Interval | None) -> bool:
    """The rise is surely less than half of the best of 16's."""
    return rise is not None and best is not None and rise.high < 0.5 * best.value


def _interval_beyond(value: Interval, limit: float) -> bool:
    return value.low > limit or value.high < -limit
