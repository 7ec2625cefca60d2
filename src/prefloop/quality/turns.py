"""What users wrote, looked through: languages, and what looks like personal data. Knows a sample of turns, no store.

Personal data are found by pattern and, where the kind has one, by its checksum, so a phone number without a sign of
one is missed and an order number may be taken for one: a list to look at, not a filter. Examples are masked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from prefloop.quality.item_nouns import Language, Personal, PersonalKind, Texts
from prefloop.quality.measured import LEAST_CLUSTERS
from prefloop.quality.texts import TurnSample
from prefloop.stats import clustered_share, wilson

_LEAST_SURE, _LEAST_LETTERS = 0.8, 12
_SHOWN = 5


def check_turns(sample: TurnSample) -> Texts | None:
    """Languages and personal data of the sampled turns; None of fewer than two conversations.

    Shares of languages need as many conversations as any resampled interval.
    """
    turns = sample.turns()
    if (clusters := len({conversation for conversation, _ in turns})) < 2:
        return None
    conversations, texts = zip(*turns, strict=True)
    return Texts(
        turns_checked=len(turns),
        languages=tuple(_languages(texts, np.array(conversations))) if clusters >= LEAST_CLUSTERS else (),
        personal=tuple(_personal(texts)),
    )


def _languages(texts: Iterable[str], conversations: np.ndarray) -> list[Language]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found = []
    for text in texts:
        code, sure = identifier.classify(text) if sum(map(str.isalpha, text)) >= _LEAST_LETTERS else ("", 0.0)
        found.append(str(code) if sure >= _LEAST_SURE else "unsure")
    return [
        Language(code=code, share=clustered_share(np.array([one == code for one in found]), conversations))
        for code, _ in Counter(found).most_common(10)
    ]


def _personal(texts: tuple[str, ...]) -> list[Personal]:
    found = []
    for kind, (pattern, is_right) in _KINDS.items():
        hits = [[hit.group() for hit in pattern.finditer(text) if is_right(hit.group())] for text in texts]
        count = sum(bool(some) for some in hits)
        if count:
            examples = dict.fromkeys(masked(one) for some in hits for one in some)
            found.append(Personal(kind=kind, share=wilson(count, len(texts)), examples=tuple(examples)[:_SHOWN]))
    return found


def masked(text: str) -> str:
    """First and last character, the rest as stars; spaces, dots, dashes and @ stay to show what it was."""
    inner = re.sub(r"[^\s.@+()-]", "*", text[1:-1])
    return f"{text[0]}{inner}{text[-1]}"


def _digits(text: str) -> list[int]:
    return [int(letter) for letter in text if letter.isdigit()]


def _is_card(text: str) -> bool:
    """Luhn's checksum, over 13 to 19 digits that are not all the same."""
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616: moved round and read as a number, 1 is left modulo 97."""
    plain = text.replace(" ", "").upper()
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def _is_address(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


def _is_telephone(text: str) -> bool:
    return 9 <= len(_digits(text)) <= 15


def _always(text: str) -> bool:
    return True


_KINDS: dict[PersonalKind, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "e-mail": (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}\b"), _always),
    "telephone": (
        re.compile(
            r"(?<![\w.])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}"  # with a country's prefix
            r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?!\w)"  # or grouped as in North America
        ),
        _is_telephone,
    ),
    "payment card": (re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w.]\d)"), _is_card),
    "IBAN": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), _is_iban),
    "IP address": (re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), _is_address),
    "US social security": (re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _always),
}
