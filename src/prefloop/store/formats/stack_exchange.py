"""Stack Exchange's Posts.xml as ranked answers, read in one pass with memory that does not grow with the file.

Answers stand anywhere behind their questions, so posts are put into a temporary SQLite file, which brings them
together on the disk. Scores follow Askell et al. 2021, C.1. Knows no model.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from prefloop.errors import DataError
from prefloop.store.formats.files import opened
from prefloop.store.formats.ranked import Answer, RankedQuestion

_QUESTION, _ANSWER = "1", "2"
_MOST = 2**63 - 1  # that SQLite keeps
_BLOCKS = {
    "p",
    "div",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "br",
    "hr",
    "table",
    "tr",
    *(f"h{n}" for n in range(1, 7)),
}


def answer_score(votes: int, is_accepted: bool) -> int:
    """log2(1 + votes) to the nearest integer, 1 more for the accepted answer; -1 where the votes are negative."""
    return -1 if votes < 0 else round(math.log2(1 + votes)) + is_accepted


def read_posts(path: Path) -> Iterator[RankedQuestion]:
    """Questions with two answers or more, in order of their ids; bodies as plain text.

    Errors:
        DataError: no well-formed XML, an encoding that cannot be read, a document type or entities of its own, a post
            without a field that it needs or with a number beyond 64 bits.
    """
    with tempfile.TemporaryDirectory(prefix="prefloop-posts-") as folder:
        connection = sqlite3.connect(Path(folder) / "posts.db")
        try:
            yield from _questions(connection, path)
        finally:
            connection.close()


def _questions(connection: sqlite3.Connection, path: Path) -> Iterator[RankedQuestion]:
    connection.execute("PRAGMA synchronous = OFF")  # a file that nobody needs after a crash
    connection.execute("CREATE TABLE question (id INTEGER PRIMARY KEY, accepted INTEGER, text TEXT)")
    connection.execute("CREATE TABLE answer (id INTEGER PRIMARY KEY, question INTEGER, votes INTEGER, text TEXT)")
    for post in _posts(path):
        if post["PostTypeId"] == _QUESTION:
            text = "\n\n".join(part for part in (post.get("Title", ""), plain_text(post["Body"])) if part)
            row: tuple[Any, ...] = (_number(post, "Id", path), post.get("AcceptedAnswerId"), text)
            connection.execute("INSERT OR REPLACE INTO question VALUES (?, ?, ?)", row)
        else:
            numbers = (_number(post, name, path) for name in ("Id", "ParentId", "Score"))
            connection.execute(
                "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?)", (*numbers, plain_text(post["Body"]))
            )
    connection.execute("CREATE INDEX by_question ON answer (question)")
    rows = connection.execute(
        "SELECT question.id, question.text, answer.votes, answer.id = question.accepted, answer.text "
        "FROM question JOIN answer ON answer.question = question.id ORDER BY question.id, answer.id"
    )
    for (id, text), answers in groupby(rows, key=lambda row: row[:2]):
        scored = [Answer(body, answer_score(votes, bool(accepted))) for *_, votes, accepted, body in answers]
        if len(scored) >= 2:
            yield RankedQuestion(f"{path.name}:{id}", text, scored)


def _posts(path: Path) -> Iterator[dict[str, str]]:
    """The attributes of each question and answer; what was read is let go at once."""
    try:
        with opened(path) as file:
            events = iterparse(file, events=("start", "end"), forbid_dtd=True)
            _, root = next(events)
            for event, element in events:
                if event == "end" and element.tag == "row":
                    if element.get("PostTypeId") in (_QUESTION, _ANSWER):
                        yield {"Body": "", **element.attrib}
                    root.clear()
    except ParseError as error:
        raise DataError(f"{path} is no well-formed XML ({error}); fetch it again.") from None
    except DefusedXmlException:
        raise DataError(f"{path} declares a document type or entities, which no dump does; fetch it again.") from None
    except (LookupError, ValueError) as error:  # an encoding that Python does not know, or one of several bytes
        raise DataError(f"{path} is in an encoding that cannot be read ({error}); write it as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again.") from None


def _number(post: dict[str, str], name: str, path: Path) -> int:
    number: int | None
    try:
        number = int(post[name])
    except (KeyError, ValueError):
        number = None
    if number is None or abs(number) > _MOST:
        raise DataError(
            f"{path} post Id={post.get('Id')!r} has {name} = {post.get(name)!r} and needs a whole number of at most "
            f"{_MOST}; mend it."
        )
    return number


class _PlainText(HTMLParser):
    """Collects text; blocks begin a line, and what stands in <pre> keeps its spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._preformatted += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n")
        if tag == "li":
            self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        self._preformatted -= tag == "pre" and self._preformatted > 0
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._preformatted:
            self.parts.append(data)
        elif data.strip():
            before, after = data[:1].isspace() * " ", data[-1:].isspace() * " "
            self.parts.append(before + " ".join(data.split()) + after)
        elif self.parts and not self.parts[-1].endswith(("\n", " ")):
            self.parts.append(" ")


def plain_text(html: str) -> str:
    """The text of a post's HTML; at most one empty line in a row."""
    parser = _PlainText()
    parser.feed(html)
    parser.close()
    lines = [line.rstrip() for line in "".join(parser.parts).split("\n")]
    kept = [line for place, line in enumerate(lines) if line or (place and lines[place - 1])]
    return "\n".join(kept).strip()
