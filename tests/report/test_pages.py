"""The page: self-contained, escaped, with numbers and their n; JSON beside it; written whole or not at all."""

import json
import math
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefloop.errors import DataError, UserError
from prefloop.report import Reply, Report, Series, Tile, Transcript, bar_plot, interval_plot, line_plot
from prefloop.schema import Interval, Message

_SHARE = Interval(value=0.74, low=0.71, high=0.77, n=320, clusters=80)
_HOSTILE = '<script>alert(1)</script> & "quotes" \'<img src=x onerror=alert(2)>'


class _Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "img", "br", "hr", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def _full() -> Report:
    report = Report("Round 1 " + _HOSTILE, "Summary " + _HOSTILE, datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    report.section("Result " + _HOSTILE, "First words. " + _HOSTILE)
    report.tiles([Tile("Accuracy", _SHARE, "best 0.80", "good"), Tile("Alpha", None, "no overlap"), Tile("n", 1200)])
    report.paragraph("Careful. " + _HOSTILE, "warning").bullets(["one", _HOSTILE])
    report.table(["worker", "share", "seconds"], [[_HOSTILE, _SHARE, 4.25], ["w2", None, math.nan]], "Workers")
    report.section("Curves").plot(
        line_plot([Series(_HOSTILE, [1, 2], [3, 4])], title="Curve " + _HOSTILE, x_label="step", y_label="score")
    )
    report.section("Talks").transcripts(
        [
            Transcript(
                "Prompt", [Message(role="user", text=_HOSTILE)], [Reply("Base", _HOSTILE, "−1"), Reply("New", "x")]
            )
        ]
    )
    return report


def test_the_page_is_self_contained_and_escaped() -> None:
    page = _Page(_full().html())
    assert "script" not in page.tags
    assert page.handlers == []
    assert all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in page.links)
    assert page.words.count(_HOSTILE) >= 8
    assert "default-src 'none'" in _full().html()
    assert len(page.ids) == len(set(page.ids))
    assert [link[1:] for link in page.links if link.startswith("#")] == page.ids


def test_numbers_stand_with_interval_and_n() -> None:
    html = _full().html()
    assert html.count("0.74 [0.71, 0.77] <small>n 320, 80 clusters</small>") == 2  # tile and table
    assert '<th scope="col" class="n">share</th>' in html
    assert '<th scope="col">worker</th>' in html
    assert "2026-01-02 03:04 UTC" in html


def test_json_beside_the_page_holds_every_number(tmp_path: Path) -> None:
    path = _full().write(tmp_path / "deep" / "report.html")
    facts = json.loads((tmp_path / "deep" / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert path.read_text(encoding="utf-8") == _full().html()
    blocks = [block for section in facts["sections"] for block in section["blocks"]]
    table = next(block for block in blocks if block["kind"] == "table")
    assert table["rows"][0][1] == _SHARE.model_dump()
    assert table["rows"][1][1:] == [None, None]  # what is not known and what is not finite
    plot = next(block for block in blocks if block["kind"] == "plot")["plot"]
    assert plot["rows"] == [[_HOSTILE, 1, 3], [_HOSTILE, 2, 4]]
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]


def test_long_tables_under_plots_are_thinned_and_say_so() -> None:
    xs = list(range(1000))
    report = Report("T").plot(line_plot([Series("s", xs, xs)], title="Long", x_label="step", y_label="score"))
    html = report.html()
    assert "60 of 1000 rows" in html
    assert len(re.findall("<tr>", html)) == 61
    assert '<td class="n">999</td>' in html
    assert len(report.data()["sections"][0]["blocks"][0]["plot"]["rows"]) == 1000


def test_an_empty_report_is_a_page() -> None:
    assert "h1" in _Page(Report("Nothing").html()).tags


def test_sections_of_the_same_name_have_their_own_places() -> None:
    report = Report("T")
    for _ in range(3):
        report.section("Same", "text")
    page = _Page(report.html())
    assert len(set(page.ids)) == 3


def test_rows_must_fit_their_columns() -> None:
    with pytest.raises(DataError, match="has 1 cells for 2 columns"):
        Report("T").table(["a", "b"], [["x"]])


def test_an_unwritable_place_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Report("T").write(tmp_path / "file" / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.browser
def test_in_a_browser_nothing_overflows_or_loads(chromium_path: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    report = _full()
    report.section("More").plot(interval_plot({"a" * 80: _SHARE}, title="Long name", x_label="share"))
    report.plot(bar_plot({"one": 1, "two": 2}, title="Bars", x_label="kind", y_label="count"))
    wide = [f"column {i}" for i in range(12)]
    path = report.table(wide, [[_SHARE] * 12]).write(tmp_path / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        for width in (1280, 720, 360):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        browser.close()
    assert faults == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
