"""Incremental text: the pieces joined are the whole, characters are never cut, and nothing follows a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefloop.engine.text_stream import StopFilter, TextStream
from prefloop.models.language import train_tokenizer
from prefloop.render import SPECIAL_TOKENS, Renderer

RENDERER = Renderer(train_tokenizer(["How are you? Größe ☃ 你好 " * 3], 300))
WORDS = st.sampled_from(["How are you?", "Größe", " ☃", "你好", "👩‍🚀", " ", "\n\n", "ß", "a"])


@given(st.lists(WORDS, max_size=12).map("".join))
def test_pieces_of_text_join_to_it(text: str) -> None:
    stream = TextStream(RENDERER.decode)
    pieces = [stream.push(token) for token in RENDERER.text_ids(text)]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(len(SPECIAL_TOKENS), 260), max_size=14))
def test_pieces_of_any_tokens_join_to_their_decoding(ids: list[int]) -> None:
    """Random bytes are mostly no UTF-8; below 16 held tokens even those come out as the whole does."""
    stream = TextStream(RENDERER.decode)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == RENDERER.decode(ids)


def test_endless_rubbish_is_sent_in_the_end() -> None:
    stream = TextStream(RENDERER.decode)
    rubbish = next(i for i in range(5, 261) if RENDERER.decode([i]) == "\ufffd")
    pieces = [stream.push(rubbish) for _ in range(40)]
    assert sum(map(len, pieces)) >= 20, "what is no UTF-8 is not held back for ever"


def test_a_character_waits_for_its_last_byte() -> None:
    ids = RENDERER.text_ids("👩")  # four bytes, none of them merged
    assert len(ids) == 4
    stream = TextStream(RENDERER.decode)
    assert [stream.push(token) for token in ids] == ["", "", "", "👩"]


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_stops_are_found_across_pieces(text: str, stops: list[str], lengths: list[int]) -> None:
    expected, is_stopped = text, False
    for end in range(1, len(text) + 1):  # the stop that is complete first ends the text where it begins
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            expected, is_stopped = text[: end - max(map(len, complete))], True
            break
    stop_filter, sent, rest = StopFilter(stops), "", text
    for length in [*lengths, len(text)]:
        piece, rest = rest[:length], rest[length:]
        sent += stop_filter.push(piece)
        assert expected.startswith(sent), "nothing is sent that has to be taken back"
    sent += stop_filter.finish()
    assert (sent, stop_filter.is_stopped) == (expected, is_stopped)


def test_a_stop_by_hand() -> None:
    stop_filter = StopFilter(["END", "\n\n"])
    assert [stop_filter.push(piece) for piece in ("a E", "N", "X E", "ND b", "c")] == ["a ", "", "ENX ", "", ""]
    assert stop_filter.is_stopped
    assert stop_filter.finish() == ""
    held = StopFilter(["END"])
    assert held.push("the EN") == "the "
    assert held.finish() == "EN"
