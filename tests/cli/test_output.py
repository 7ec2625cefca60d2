"""What people read instead of JSON."""

from __future__ import annotations

from prefloop.cli.output import lines


def test_nested_objects_and_lists_by_hand() -> None:
    result = {
        "share": 0.25,
        "interval": {"low": 0.1, "n": 4},
        "bounds": [0.5, 0.75],
        "verdict": [{"level": "good", "why": "told"}, {"level": "bad", "n": {"of": 3}}],
        "none": [],
    }
    assert lines(result) == [
        "share: 0.25",
        "interval:",
        "  low: 0.1",
        "  n: 4",
        "bounds: [0.500, 0.750]",
        "verdict:",
        "  - level: good",
        "    why: told",
        "  - level: bad",
        "    n:",
        "      of: 3",
        "none: []",
    ]


def test_an_empty_object_in_a_list_is_a_dash() -> None:
    assert lines({"rows": [{}, {"a": 1}]}) == ["rows:", "  -", "  - a: 1"]
