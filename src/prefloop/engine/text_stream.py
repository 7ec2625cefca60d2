"""Token ids -> text, piece by piece, ending before a stop string. Knows no model and no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["StopFilter", "TextStream"]

_LONGEST_HELD_TOKENS = 16  # no character takes more tokens: what is still incomplete by then is no UTF-8


class TextStream:
    """Incremental detokenisation that never sends half a character, and never what follows a stop string.

    The pieces joined are the decoded whole (up to the stop string), for any tokenizer whose decoding of a token
    depends on the tokens shortly before it alone.

    Args:
        decode: ids -> text, special tokens left out.
        stop: strings that end the text; they are not part of it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._filter = StopFilter(stop)
        self._ids: list[int] = []  # those that still matter to the decoding of the next one
        self._sent_ids = 0  # of these, how many are in the text already
        self._sent_text = ""  # what they decode to

    @property
    def is_stopped(self) -> bool:
        """True once a stop string was found."""
        return self._filter.is_stopped

    def push(self, token: int) -> str:
        """The text that this token completes; often a piece, sometimes nothing yet."""
        self._ids.append(token)
        text = self._decode(self._ids)
        held = len(self._ids) - self._sent_ids
        if text.endswith("\ufffd") and held < _LONGEST_HELD_TOKENS:
            return ""  # the first bytes of a character; the rest of it comes with the next tokens
        return self._filter.push(self._advance(text))

    def finish(self) -> str:
        """What was held back, at the end of the tokens."""
        return self._filter.push(self._advance(self._decode(self._ids))) + self._filter.finish()

    def _advance(self, text: str) -> str:
        piece = text[len(self._sent_text) :]
        self._ids = self._ids[self._sent_ids :]
        self._sent_ids = len(self._ids)
        self._sent_text = self._decode(self._ids)
        return piece


class StopFilter:
    """Text in pieces -> text up to the stop string that is complete first, however the text is cut into pieces."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str) -> str:
        """What can be sent: all but an ending that may be the beginning of a stop string."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            _, start = min(found)
            return text[:start]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest ending of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
