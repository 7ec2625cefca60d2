"""Thresholds in the workspace's settings, and the gate that they make of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from workforce import Person, Plan, fill

from prefloop.config import QualitySettings
from prefloop.errors import ConfigError
from prefloop.quality import quality_report
from prefloop.sandbox.judges import Traits
from prefloop.store import Store
from prefloop.workspace import Workspace

_LEANING = Plan([Person(Traits(side_bias=0.9, careless=0.0)) for _ in range(3)])


def test_a_warning_that_the_gate_names_closes_it(one_store: Store) -> None:
    fill(one_store, _LEANING)
    closed = quality_report(one_store, limits=QualitySettings(gate=("side", "void")))
    assert len(closed.gate) == 1
    assert "lean to one side" in closed.gate[0]
    assert quality_report(one_store, limits=QualitySettings(gate=("void",))).gate == ()
    assert quality_report(one_store).gate == ()
    lax = QualitySettings(gate=("side",), most_side_share=0.95)
    assert quality_report(one_store, limits=lax).gate == ()


def test_what_is_not_known_closes_a_gate_that_needs_it(one_store: Store) -> None:
    fill(one_store, Plan([Person(), Person()], conversations=20, overlap=0.0))
    assert quality_report(one_store, limits=QualitySettings(gate=("agreement",))).gate == ()
    strict = quality_report(one_store, limits=QualitySettings(gate=("agreement",), gate_needs_known=True))
    assert "no comparison twice" in strict.gate[0]
    # nobody met a pair again: nothing is said of it, which is not knowing as well
    silent = quality_report(one_store, limits=QualitySettings(gate=("retest",), gate_needs_known=True))
    assert "'retest'" in silent.gate[0]


def test_an_empty_store_closes_every_gate(one_store: Store) -> None:
    assert "no judgments" in quality_report(one_store, limits=QualitySettings(gate=("side",))).gate[0]
    assert quality_report(one_store).gate == ()


def test_settings_stand_in_the_workspace(tmp_path: Path) -> None:
    text = '[quality]\nleast_alpha = 0.3\ngate = ["agreement"]\n'
    settings = Workspace.create(tmp_path / "ws", text).settings.quality
    assert (settings.least_alpha, settings.gate) == (0.3, ("agreement",))
    with pytest.raises(ConfigError, match="gate"):
        Workspace.create(tmp_path / "other", '[quality]\ngate = ["agreemnt"]\n')
