"""Conversation <-> token ids: the one place that builds a prompt, for serving, training and evaluation.

A turn is role header, text, end token, tokenized segment by segment and the same way everywhere, so that two
sequences with a common beginning share it token by token (the trie rests on that). Knows tokenizers, not models.

Three layouts:
    own       our tokenizers: headers and end are special tokens, and the chat template is ours
    template  hub models: the turn's pieces are read off the tokenizer's chat template
    hh        base models without a template: "\\n\\nHuman:" and "\\n\\nAssistant:" with EOS after each reply; encoders
              too, whose [CLS] and [SEP] stand for BOS and EOS where the tokenizer has none of those

What a person or a model wrote never becomes a special token, whatever it spells. Padding is never the end of a turn: a
tokenizer that has no padding token, or pads with its end, is given one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError

from prefloop.errors import DataError, ModelError
from prefloop.schema import Message, Role

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, SYSTEM, USER, ASSISTANT, END)
OWN_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_PAD_NAMES = ("<|padding|>", "<pad>", "<|pad|>", "[PAD]", "<PAD>", "<|finetune_right_pad_id|>")
_RESERVED = re.compile("reserved|unused", re.IGNORECASE)  # special tokens that their makers left for such a use
_NEW_PAD = _PAD_NAMES[0]  # not PAD, which is of our own headers
_HH_HEADERS: dict[Role, str] = {"system": "\n\nSystem:", "user": "\n\nHuman:", "assistant": "\n\nAssistant:"}

Layout = Literal["own", "template", "hh"]


class Rendered(NamedTuple):
    """`ids` of a whole conversation; `is_response` is True on the tokens of assistant turns, their end included."""

    ids: list[int]
    is_response: list[bool]


class Fitted(NamedTuple):
    """A context that fits, and how many of its oldest turns were dropped for it."""

    ids: list[int]
    dropped_turns: int


@dataclass(frozen=True)
class _Pieces:
    """Token ids around a turn's text."""

    header: list[int]
    end: list[int]


class _Template(NamedTuple):
    """What a chat template writes; `start_with_system` stands before a conversation that begins with a system turn."""

    start: list[int]
    start_with_system: list[int]
    pieces: dict[Role, _Pieces]


def without_oldest(messages: Sequence[Message], dropped_turns: int) -> list[Message]:
    """What `Renderer.fit` keeps where it drops so many turns: system turns stay."""
    places = [place for place, message in enumerate(messages) if message.role != "system"][:dropped_turns]
    return [message for place, message in enumerate(messages) if place not in places]


class Renderer:
    """Builds prompts for one tokenizer.

    Args:
        tokenizer: a `PreTrainedTokenizerFast` with an end (EOS, or an encoder's SEP). Where its padding token is
            missing or ends a turn it is given another, in place: one that its makers left unused, or a new one.
        pad_id: of a model that finds the place of its score by this padding; the tokenizer then stays as it is.

    Errors:
        ModelError: no EOS; a chat template that is not a sequence of turns.
    """

    def __init__(self, tokenizer: Any, *, pad_id: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.layout = _layout(tokenizer)
        start, end = _special_id(tokenizer, "bos_token", "cls_token"), _special_id(tokenizer, "eos_token", "sep_token")
        if end is None:
            raise ModelError("The tokenizer has no EOS token; set `eos_token` in its tokenizer_config.json.")
        self._start: list[int] = []
        self._start_with_system: list[int] = []
        if self.layout == "own":
            self._pieces = {role: _Pieces([self._special(f"<|{role}|>")], [self._special(END)]) for role in _HH_HEADERS}
        elif self.layout == "template":
            self._start, self._start_with_system, self._pieces = _read_template(tokenizer)
        else:
            self._start = self._start_with_system = [] if start is None else [start]
            self._pieces = {
                role: _Pieces(self._encode_trusted(header), [end] if role == "assistant" else [])
                for role, header in _HH_HEADERS.items()
            }
        self.end_id: int = self._pieces["assistant"].end[0]
        self.pad_id: int = self._own_padding({end, self.end_id}) if pad_id is None else pad_id

    @property
    def format(self) -> str:
        """Layout and a digest of the ids around a turn's text: equal where conversations are written alike."""
        written = [
            self._start,
            self._start_with_system,
            [(role, *vars(p).values()) for role, p in self._pieces.items()],
        ]
        return f"{self.layout}:{hashlib.sha256(json.dumps(written).encode()).hexdigest()[:12]}"

    def other_layout(self) -> Renderer | None:
        """The same tokenizer writing conversations the other way (plain headers, or ours), to find a lost template.

        None where there is no other way.
        """
        tokenizer = copy(self.tokenizer)
        tokenizer.chat_template = None
        if self.layout == "hh":
            if not all(token in tokenizer.get_vocab() for token in SPECIAL_TOKENS):
                return None
            tokenizer.chat_template = OWN_CHAT_TEMPLATE
        try:
            return Renderer(tokenizer, pad_id=self.pad_id)
        except ModelError:
            return None

    def gives_template_ids(self) -> bool:
        """Whether a conversation has the ids of its template's whole text, where a word may take in a space."""
        if self.layout == "hh":
            return True
        question, answer = Message(role="user", text="what is the time?"), Message(role="assistant", text="it is late.")
        turns = [{"role": turn.role, "content": turn.text} for turn in (question, answer, question, answer)]
        whole = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return self.conversation([question, answer] * 2).ids == self._encode_trusted(whole)

    def turn_ids(self, message: Message) -> list[int]:
        """Header, text and end of one turn."""
        pieces = self._pieces[message.role]
        return pieces.header + self.text_ids(message.text) + pieces.end

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; special tokens spelled in it stay text. In layout hh a turn's text begins with a space."""
        if self.layout == "hh":
            text = " " + text
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def reply_ids(self, text: str) -> list[int]:
        """A reply as a policy gives it after a context: text and end token, at which a PM's score is read.

        A template's turn may go on behind the end token (with a newline, say); the reply does not.
        """
        return [*self.text_ids(text), self.end_id]

    @property
    def turn_end_ids(self) -> list[int]:
        """All that stands behind a reply's text: the end token, and what a template writes after it."""
        return list(self._pieces["assistant"].end)

    def context_ids(self, messages: Sequence[Message]) -> list[int]:
        """All turns and the assistant's header: what a policy answers."""
        ids = self._start_of(messages)
        for message in messages:
            ids += self.turn_ids(message)
        return ids + self._pieces["assistant"].header

    def next_user_ids(self, messages: Sequence[Message]) -> list[int]:
        """All turns and the person's header: what a language model goes on with as the person would."""
        ids = self._start_of(messages)
        for message in messages:
            ids += self.turn_ids(message)
        return ids + self._pieces["user"].header

    def next_user_stops(self) -> tuple[str, ...]:
        """Texts that end a person's turn written by a model, where no end token does: the headers of layout hh."""
        return tuple(header.strip() for header in _HH_HEADERS.values()) if self.layout == "hh" else ()

    def reply_stops(self) -> tuple[str, ...]:
        """Texts that end a reply where no end token does: a base model goes on with the other side's header."""
        if self.layout != "hh":
            return ()
        return (self.decode(self.turn_ids(Message(role="user", text=""))).rstrip(),)

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation with the mask of what a policy wrote."""
        ids = self._start_of(messages)
        is_response = [False] * len(ids)
        for message in messages:
            turn, header = self.turn_ids(message), len(self._pieces[message.role].header)
            ids += turn
            is_response += [False] * header + [message.role == "assistant"] * (len(turn) - header)
        return Rendered(ids, is_response)

    def fit(self, messages: Sequence[Message], room_tokens: int) -> Fitted:
        """The context, its oldest turns dropped until it has at most `room_tokens` ids (system turns stay).

        Errors:
            DataError: the last turn alone is too long.
        """
        turns = [self.turn_ids(message) for message in messages]  # once, however many of them go
        header = self._pieces["assistant"].header
        size = sum(map(len, turns)) + len(header)
        start = self._start_of(messages)
        first_system = next((place for place, message in enumerate(messages) if message.role == "system"), len(turns))
        parts = _oldest_first(messages)
        dropped: set[int] = set()
        while len(start) + size > room_tokens:
            part = next(parts, None)
            if part is None:
                raise DataError(
                    f"The last turn needs {len(start) + size} tokens and the model's window leaves {room_tokens}; "
                    "shorten it."
                )
            dropped.update(part)
            size -= sum(len(turns[place]) for place in part)
            first = min(part.stop, first_system)
            start = self._start_of(messages[first : first + 1])
        kept = (turn for place, turn in enumerate(turns) if place not in dropped)
        return Fitted([*start, *chain.from_iterable(kept), *header], len(dropped))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of sampled ids, without special tokens. In layout hh the leading space is taken off."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(" ") if self.layout == "hh" else text

    def _start_of(self, messages: Sequence[Message]) -> list[int]:
        """What stands before the first turn; a template's own system text gives way to one that is given."""
        begins_with_system = bool(messages) and messages[0].role == "system"
        return list(self._start_with_system if begins_with_system else self._start)

    def _own_padding(self, ends: set[int]) -> int:
        """The padding id, after giving the tokenizer a padding token that ends no turn."""
        tokenizer = self.tokenizer
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
            vocabulary = tokenizer.get_vocab()
            used = ends.union(self._start, self._start_with_system, *(p.header + p.end for p in self._pieces.values()))
            added = (token for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special)
            reserved = [str(token) for token in added if _RESERVED.search(str(token))]
            names = [name for name in (*_PAD_NAMES, *reserved, tokenizer.unk_token) if name in vocabulary]
            free = next((name for name in names if vocabulary[name] not in used), _NEW_PAD)
            tokenizer.add_special_tokens({"pad_token": free})
        return int(tokenizer.pad_token_id)

    def _encode_trusted(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _special(self, token: str) -> int:
        index: int = self.tokenizer.convert_tokens_to_ids(token)
        return index


def _special_id(tokenizer: Any, *names: str) -> int | None:
    """The id of the first special token of these names that the tokenizer has."""
    known = (getattr(tokenizer, f"{name}_id") for name in names)
    return next((index for index in known if index is not None), None)


def _layout(tokenizer: Any) -> Layout:
    if tokenizer.chat_template is None:
        return "hh"
    vocabulary = tokenizer.get_vocab()
    is_own = tokenizer.chat_template == OWN_CHAT_TEMPLATE and all(token in vocabulary for token in SPECIAL_TOKENS)
    return "own" if is_own else "template"  # others have our headers too, and write them otherwise


def _oldest_first(messages: Sequence[Message]) -> Iterator[range]:
    """Places of turns that can go, one user's turn and the answers to it at a time; system turns and the last stay.

    The last goes all the same where it is an answer to what went and a system turn stays.
    """
    count = len(messages)
    place = systems = 0
    while True:
        while place < count - 1 and messages[place].role == "system":
            place, systems = place + 1, systems + 1
        if place >= count - 1:
            return
        stop = place + 1
        while stop < count and messages[stop].role == "assistant" and systems + count - stop > 1:
            stop += 1  # a conversation does not begin with an answer to nothing
        yield range(place, stop)
        place = stop


def _read_template(tokenizer: Any) -> _Template:
    """Reads the pieces off a chat template. Where that takes no system turn, such a turn is written as a user's.

    Errors:
        ModelError: turns are not written independently of each other, or a reply has no end.
    """

    def text(messages: list[dict[str, str]], generate: bool = False) -> str:
        rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        return rendered

    user, answer = {"role": "user", "content": "QQQ"}, {"role": "assistant", "content": "RRR"}
    try:
        one, two = text([user]), text([user, answer])
        four = text([user, answer, user, answer])
        header_assistant = text([user], generate=True)[len(one) :]
        second_turn = four[len(two) :]
        header_user, end_user = second_turn[: second_turn.index("QQQ")], second_turn[second_turn.index("QQQ") + 3 :]
        end_user = end_user[: end_user.index("RRR")].removesuffix(header_assistant)
        end_assistant = two[two.index("RRR") + 3 :]
        start = one[: one.index("QQQ")].removesuffix(header_user)
    except (ValueError, TypeError, TemplateError) as error:
        raise ModelError(
            f"The tokenizer's chat template is not a sequence of turns ({error}); give it a plain one."
        ) from None
    start_with_system = start
    try:
        with_system = text([{"role": "system", "content": "SSS"}, user])
        before = with_system[: with_system.index("SSS")]
        if not before.startswith(start):  # `start` holds a system text of the template's own
            start_with_system = tokenizer.bos_token if before.startswith(tokenizer.bos_token or "\0") else ""
        before = before.removeprefix(start_with_system)
        after = with_system[with_system.index("SSS") + 3 :].removesuffix(f"{header_user}QQQ{end_user}")
    except (ValueError, TypeError, TemplateError):  # it raises, or leaves the text out
        before, after = header_user, end_user
    rebuilt = start + 2 * f"{header_user}QQQ{end_user}{header_assistant}RRR{end_assistant}"
    if rebuilt != four or not end_assistant:
        raise ModelError(
            "The tokenizer's chat template treats turns differently by place, or ends no reply; give it a plain one."
        )

    def ids(piece: str) -> list[int]:
        encoded: list[int] = tokenizer(piece, add_special_tokens=False)["input_ids"]
        return encoded

    return _Template(
        ids(start),
        ids(start_with_system),
        {
            "system": _Pieces(ids(before), ids(after)),
            "user": _Pieces(ids(header_user), ids(end_user)),
            "assistant": _Pieces(ids(header_assistant), ids(end_assistant)),
        },
    )
