"""Untrusted Markdown becomes HTML that executes and loads nothing; what it should keep, it keeps."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from prefloop.web.markdown import render_markdown

ALLOWED = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "span"),
    *("h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}


class Inspector(HTMLParser):
    """Fails on the first element or attribute that is not on the list."""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED
        for name, value in attributes:
            assert (tag, name) in {
                *(("a", "href"), ("a", "rel"), ("a", "target"), ("ol", "start"), ("span", "class")),
            }
            if name == "href":
                assert urlsplit(value or "").scheme in ("http", "https", "mailto", "")
            if name == "class":
                assert value == "host"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts(text: str) -> None:
    Inspector().feed(render_markdown(text))


@given(st.text(max_size=200) | st.lists(st.sampled_from([*HOSTILE, "\n", "`", "](", "![", ">"])).map("".join))
def test_any_text(text: str) -> None:
    Inspector().feed(render_markdown(text))


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo", "<p>one<br>\ntwo</p>\n"),
        ("# Title", "<h3>Title</h3>\n"),
        ("###### Small", "<h6>Small</h6>\n"),
        ("3. three", '<ol start="3">\n<li>three</li>\n</ol>\n'),
        ("a ![picture](https://evil.example/x.png) b", None),
        ("`<b>`", "<p><code>&lt;b&gt;</code></p>\n"),
        ("x \u202egnp.exe", "<p>x gnp.exe</p>\n"),
    ],
)
def test_what_stays(text: str, html: str | None) -> None:
    rendered = render_markdown(text)
    assert "<img" not in rendered
    assert html is None or rendered == html


def test_a_link_shows_where_it_leads() -> None:
    html = render_markdown("[your bank](https://evil.example/login)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert '<span class="host"> (evil.example)</span>' in html


def test_instructions_join_lines() -> None:
    assert render_markdown("one\ntwo", keeps_lines=False) == "<p>one\ntwo</p>\n"
