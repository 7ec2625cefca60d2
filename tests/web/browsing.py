"""What tests in a real browser share: sizes, the way through consent and instructions, checks of a page's layout."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

PAGES = Path(__file__).resolve().parents[2] / "docs" / "pages"
SIZES = {"wide": (1280, 860), "narrow": (320, 640)}


def begin(page: Any) -> None:
    """Through consent and instructions to the first task."""
    page.click("text=I agree")
    page.click("#begin")
    skip_practice(page)


def skip_practice(page: Any) -> None:
    """Past the practice turn that stands before the first task."""
    page.wait_for_selector("#practice-note:visible")
    page.click("#skip")
    page.wait_for_selector("#practice-note", state="hidden")


def overflow(page: Any) -> int:
    """How many pixels the page is wider than its window."""
    page.wait_for_load_state()  # a page that has just come may be without its style sheet
    width: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return width


def overlaps(page: Any) -> list[str]:
    """Pairs of neighbouring parts that stand over each other."""
    found: list[str] = page.evaluate(
        """() => {
          const parts = [...document.querySelectorAll('header.bar, #transcript > li, .pane, #judgment > *, .grade-row, '
            + '.grade-ends, .grade-choice, #composer, .notice-card:not([hidden]), .study-detail > *')]
            .filter((part) => part.checkVisibility() && part.getBoundingClientRect().height);
          const faults = [];
          for (const one of parts) for (const other of parts) {
            if (one === other || one.contains(other) || other.contains(one)) continue;
            const [p, q] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
            const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (across > 1 && down > 1) faults.push(`${one.className || one.id} over ${other.className || other.id}`);
          }
          return faults;
        }"""
    )
    return found


def unlevel(page: Any) -> float:
    """Pixels by which the two answers differ: side by side in top and height, one above the other in left and width."""
    a, b = (page.locator(f"#pane-{side}").bounding_box() for side in "ab")
    keys = ("y", "height") if a["x"] != b["x"] else ("x", "width")
    return max(abs(a[key] - b[key]) for key in keys)


def shot(page: Any, name: str) -> None:
    """A screenshot in few colours; kept where that is asked for."""
    picture = Image.open(BytesIO(page.screenshot(full_page=True)))
    assert picture.width == page.viewport_size["width"]
    if os.environ.get("PREFLOOP_SCREENSHOTS"):
        PAGES.mkdir(exist_ok=True)
        picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(PAGES / f"{name}.png", optimize=True)
    else:
        assert (PAGES / f"{name}.png").is_file(), f"docs/pages/{name}.png is missing: PREFLOOP_SCREENSHOTS=1 makes it"
