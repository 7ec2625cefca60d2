"""`prefloop sandbox describe`: the tiny world, samples of it, and what is measured about it right now."""

from __future__ import annotations

import random
from typing import Any

from prefloop.models.language import load_language_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import Gold, Population, dialogues, draw_prompts, world
from prefloop.sandbox.limits import contrast_accuracy, known_pairs, limits, sample_replies, score_differences, way
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.schema import Interval


def describe_sandbox(seed: int, count: int, samples: int = 4) -> dict[str, Any]:
    """Samples and numbers, from `count` pairs of the tiny chat model's replies to prompts of this seed."""
    here, gold = world(), Gold(world())
    chat = load_language_model(tiny_model(CHAT_MODEL))
    sampler = TorchSampler(chat.model, chat.renderer, CHAT_MODEL)
    prompts = draw_prompts(here, seed, count)
    pairs = known_pairs(sampler, chat.renderer, here, prompts, Population(seed=seed).traits(), seed)
    known = limits(pairs)
    pmp = PreferenceModel.load(tiny_model(PMP_MODEL))
    accuracy, share = way(score_differences(pmp, pairs), pairs)
    talk = next(iter(dialogues(here, seed, 1)))
    shown = random.Random(seed).sample(prompts, samples)
    replies = sample_replies(sampler, chat.renderer, shown, 2, seed)
    return {
        "world": {
            "kinds_of_request": len(here.kinds),
            "harmful_kinds": len(here.harmful),
            "different_requests": len(here.all_requests()),
            "different_sentences": here.sentence_count,
        },
        "chat_model": {
            "parameters": sum(parameter.numel() for parameter in chat.model.parameters()),
            "right_content": _interval(known.right_content),
            "unreadable": _interval(known.unreadable),
        },
        "preferences": {
            "pairs": known.pairs,
            "best_possible": _interval(known.best_possible),
            "length_only": _interval(known.length_only),
            "bag_of_words_way": known.bag_of_words_way,
            "pmp_accuracy": _interval(accuracy),
            "pmp_way": share,
            "pmp_tells_right_content": contrast_accuracy(pmp, seed),
        },
        "sample_dialogue": [f"{message.role}: {message.text}" for message in talk],
        "sample_replies": [
            {
                "asked": context[-1].text,
                **{f"reply {i}": f"{text} (worth {gold(context, text):.1f})" for i, text in enumerate(texts, 1)},
            }
            for context, texts in zip(shown, replies, strict=True)
        ],
    }


def _interval(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]
