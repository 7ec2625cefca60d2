"""Untrusted Markdown -> safe HTML. The one place where a text becomes markup; knows nothing of pages.

Two barriers that do not depend on each other: markdown-it-py with raw HTML switched off, then nh3 with a list of
allowed tags. Nothing in the result loads anything: images, styles and frames do not survive either barrier, and a
link shows the host that it leads to.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token

_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "span"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href"}, "ol": {"start"}}
_SCHEMES = {"http", "https", "mailto"}
_READERS = {
    keeps_lines: MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": keeps_lines})
    .enable("table")
    .disable("image")
    for keeps_lines in (True, False)
}
_INVISIBLE = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Direction overrides: with them a text shows its characters in another order than the stored one."""


@lru_cache(maxsize=4096)
def render_markdown(text: str, keeps_lines: bool = True) -> str:
    """Safe HTML of an answer or of a study's instructions. Any text is accepted.

    Args:
        keeps_lines: a line's end stays one, as people expect in a chat; False joins lines as plain Markdown does.
    """
    reader = _READERS[keeps_lines]
    tokens = reader.parse(text.translate(_INVISIBLE))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"  # h1 and h2 belong to the page
        if token.children:
            token.children = _with_hosts(token.children)
    html = reader.renderer.render(tokens, reader.options, {})
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes={"span": {"host"}},
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _with_hosts(children: list[Token]) -> list[Token]:
    """Puts ` (host)` behind each link, so that a reader sees where it leads before following it."""
    result: list[Token] = []
    hosts: list[str] = []
    for child in children:
        result.append(child)
        if child.type == "link_open":
            hosts.append(_host(str(child.attrGet("href") or "")))
        elif child.type == "link_close" and (host := hosts.pop()):
            result += [
                Token("host_open", "span", 1, attrs={"class": "host"}),
                Token("text", "", 0, content=f" ({host})"),
                Token("host_close", "span", -1),
            ]
    return result


def _host(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return "unreadable address"
    return parts.path if parts.scheme == "mailto" else parts.netloc
