"""Every recipe: its settings load, its README says what it must, and two steps of it run by the real command.

The steps run on tiny sizes: a model of a few thousand parameters from scratch for the recipe of the real pairs, a few
texts of the tiny world for the others. `hh_small` runs on invented pairs everywhere and on real ones where they are.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefloop.cli import main
from prefloop.config import Config
from prefloop.loop.cleanliness import CleanlinessRun
from prefloop.loop.round import create_workspace
from prefloop.loop.scan import ScanRun
from prefloop.store.formats import import_file
from prefloop.train.distill import DistillRun
from prefloop.train.lm import LanguageRun
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "recipes"
FILES = sorted(RECIPES.glob("*/*.toml"))
FOLDERS = sorted(folder for folder in RECIPES.iterdir() if folder.is_dir())
PAIRS = REPOSITORY / "tests" / "fixtures" / "hh_pairs.jsonl"

STAGES: tuple[tuple[str, str, type[Config]], ...] = (
    (r"cleanliness\.", "eval cleanliness", CleanlinessRun),
    (r"scan(_|\.|$)", "eval scan", ScanRun),
    (r"(lm|sft)(_|\.|$)", "train lm", LanguageRun),
    (r"pmp?(_|\.|$)", "train preference", PreferenceRun),
    (r"(ppo|policy)(_|\.|$)", "train policy", PolicyRun),
    (r"distill(_|\.|$)", "train distill", DistillRun),
)
"""How the name of a file, or else of its folder, begins; the command that runs it; the class that reads it."""

TINY_LM = [
    "steps=2",
    "tokens_per_step=64",
    "held_out_conversations=2",
    "shape.hidden=16",
    "shape.layers=1",
    "shape.heads=2",
    "shape.vocabulary=300",
]
TINY_POLICY = [
    "episodes=8",  # two batches, one epoch of one minibatch each
    "episodes_per_batch=4",
    "samples_per_prompt=2",
    "epochs=1",
    "minibatches=1",
    "max_response_tokens=6",
    "snapshots=1",
    "workers=1",
]


class Case(NamedTuple):
    """A recipe's file and what makes it tiny; `steps` is what its metrics must then reach."""

    file: str
    overrides: list[str]
    snapshot: str
    steps: int = 2


SANDBOX = (
    Case(
        "lm_sandbox_tiny/run.toml",
        ["sandbox_dialogues=40", "copy_steps=0", *TINY_LM],
        "sandbox_tiny",
    ),
    Case(
        "pmp_sandbox_tiny/run.toml",
        ["sandbox_contrasts=24", "held_out_share=0.1", "pairs_per_step=12"],
        "pmp_sandbox_tiny",
    ),
    Case("pm_sandbox_curves/lm.toml", ["sandbox_dialogues=40", "copy_steps=0", *TINY_LM], "curves_lm_32"),
    Case(
        "pm_sandbox_curves/pmp.toml",
        ["sandbox_contrasts=24", "held_out_share=0.1", "pairs_per_step=12"],
        "curves_pmp_32",
    ),
    Case(
        "distill_sandbox/lm.toml",
        ["sandbox_assistants=40", "held_out_conversations=4", "steps=2", "tokens_per_step=64"],
        "sandbox_assistants",
    ),
    Case(
        "distill_sandbox/distill.toml",
        ["sandbox_dialogues=12", "held_out_texts=4", "texts_per_step=4"],
        "sandbox_distilled",
    ),
    Case(
        "ppo_sandbox/run.toml",
        [
            *TINY_POLICY,
            "value_warmup_batches=1",
            "policy=lm_sandbox_tiny",  # a demo's snapshots are not in this workspace
            "preference_model=pmp_sandbox_tiny",
            "held_out_preference_model=pmp_sandbox_tiny",
        ],
        "ppo_sandbox",
    ),
    Case(
        "pm_sandbox/run.toml",
        ["sandbox_judgments=32", "held_out_share=0.1", "pairs_per_step=16", "epochs=1"],
        "pm_sandbox",
    ),
)


SCANS = (
    Case(
        "pm_sandbox_curves/scan.toml",
        [
            "seeds=[0, 1]",
            "evaluation_pairs=12",
            "run.sandbox_judgments=40",
            "run.pairs_per_step=8",
            "scans.Data size.values=[4, 8, 16]",
            'scans.Model size.values=["lm_sandbox_tiny"]',
            "scans.Model size.fit=false",
            "scans.Mix of helpful and red-team comparisons.values=[0.0, 0.5]",
            'scans.Mix of helpful and red-team comparisons.also=["mix_pairs=8"]',
            "scans.Weight of red-team comparisons.values=[3.0]",
            'scans.Weight of red-team comparisons.also=["training_pairs=8"]',
        ],
        snapshot="",
    ),
    Case(
        "pm_hh_minilm/scan.toml",
        ["folds=2", "run.held_out_share=0.5", 'scans.Transfer between helpful and harmless.values=["helpful"]'],
        snapshot="",
    ),
    Case(
        "cleanliness_sandbox/scan.toml",
        [
            "run.held_out_share=0.4",
            "run.pairs_per_step=8",
            "scans.Base.values=[4, 6, 8]",
            "scans.Rejection sampled.values=[4, 6, 8]",
            'scans.Rejection sampled.also=["tranche=base"]',
        ],
        snapshot="",
    ),
)
CLEANLINESS = Case(
    "cleanliness_sandbox/cleanliness.toml",
    ["flipped=[0.3]", "gold_prompts=2", "run.held_out_share=0.4", "run.pairs_per_step=8"],
    snapshot="",
)


def hh_cases(pairs_per_step: int) -> tuple[Case, ...]:
    """The runs of recipes/hh_small in their order; each starts from the ones before."""
    return (
        Case("hh_small/lm.toml", TINY_LM, "hh_lm"),
        Case("hh_small/pm_a.toml", [f"pairs_per_step={pairs_per_step}"], "hh_pm_a"),
        Case("hh_small/pm_b.toml", [f"pairs_per_step={pairs_per_step}"], "hh_pm_b"),
        Case("hh_small/policy.toml", TINY_POLICY, "hh_policy"),
    )


IN_PROCESS = (
    Case("ppo_hh_small/lm.toml", TINY_LM, "ppohh_lm"),
    Case("ppo_hh_small/sft.toml", TINY_LM[:3], "ppohh_sft"),
    Case("ppo_hh_small/pm_a.toml", ["pairs_per_step=8"], "ppohh_pm_a"),
    Case("ppo_hh_small/pm_b.toml", ["pairs_per_step=8"], "ppohh_pm_b"),
    Case("ppo_hh_small/policy.toml", TINY_POLICY, "ppohh_policy"),
)
"""The recipes whose commands are run one after the other in this process: starting it anew costs more than they do."""


def stage_of(file: Path) -> tuple[str, type[Config]]:
    """The command and the class of a recipe's file."""
    for name in (file.name, file.parent.name):
        for pattern, stage, cls in STAGES:
            if re.match(pattern, name):
                return stage, cls
    raise AssertionError(f"neither {file.name} nor {file.parent.name} says which command runs it")


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_settings_load(file: Path) -> None:
    _, cls = stage_of(file)
    run: Any = cls.load([file])
    assert run.name
    assert file.read_text(encoding="utf-8").startswith("# "), "its first line says what it is for"


def test_every_recipe_is_run_here() -> None:
    run = {case.file for case in (*SANDBOX, *SCANS, *IN_PROCESS, CLEANLINESS, *hh_cases(1))}
    assert run == {name_of(file) for file in FILES}


WANTED: dict[str, Callable[[str], object]] = {
    "its hardware": re.compile(r"\b(cores?|CPU|GPU)\b").search,
    "the time it takes": re.compile(r"\d\s*(s|seconds|min|minutes|h|hours)\b").search,
    "the numbers that come out": re.compile(r"\b\d\.\d+|\d ?%").search,
    "what it does not show": re.compile(r"\b(does|do) not show\b|\bnot shown\b", re.I).search,
}


def lacking(text: str, files: list[Path]) -> list[str]:
    """What a recipe's README leaves out; the command of every file stands in it as code."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    code = "\n".join([*fenced, *re.findall(r"^    .+$", text, re.M), *re.findall(r"`([^`]+)`", text)])
    missing = [what for what, found in WANTED.items() if not found(text)]
    for file in files:
        stage, _ = stage_of(file)
        if not re.search(rf"prefloop {stage} \S*{re.escape(name_of(file))}", code):
            missing.append(f"the command prefloop {stage} recipes/{name_of(file)}")
    return missing


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_readme_has_command_time_numbers_and_limits(folder: Path) -> None:
    readme = folder / "README.md"
    assert readme.is_file(), f"write {name_of(readme)}"
    assert not lacking(readme.read_text(encoding="utf-8"), sorted(folder.glob("*.toml")))


def test_a_poor_readme_would_be_found() -> None:
    files = [RECIPES / "hh_small" / "lm.toml"]
    whole = "```\nprefloop train lm recipes/hh_small/lm.toml\n```\n2 cores, 3 min: loss 4.1. It does not show more.\n"
    assert lacking(whole, files) == []
    assert lacking("Run it.", files) == [*WANTED, "the command prefloop train lm recipes/hh_small/lm.toml"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the invented pairs."""
    made, _ = create_workspace(tmp_path_factory.mktemp("recipes") / "invented")
    with made.store() as store:
        assert import_file(store, "hh-rlhf", PAIRS, "base", "helpful").imported == 24
    return made


def arguments(case: Case, workspace: Workspace) -> list[str]:
    stage, _ = stage_of(RECIPES / case.file)
    overrides = [word for override in case.overrides for word in ("--set", override)]
    where = ["--workspace", str(workspace.path), "--json"]
    return [*stage.split(), str(RECIPES / case.file), *overrides, *where]


def check(case: Case, workspace: Workspace, printed: str) -> None:
    """The run took its steps, every loss is a number, and the snapshot is there."""
    result = json.loads(printed)
    assert result["snapshot"] == case.snapshot
    rows = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert max(row["step"] for row in rows) == case.steps
    losses = [value for row in rows for name, value in row.items() if name.endswith("/loss")]
    assert len(losses) >= case.steps
    assert all(math.isfinite(value) for value in losses)
    with workspace.store() as store:
        assert (workspace.path / store.snapshot(case.snapshot).path / "model.safetensors").is_file()


@pytest.mark.parametrize("case", [*SANDBOX, *hh_cases(pairs_per_step=8)], ids=lambda case: case.file)
def test_two_steps_by_the_real_command(case: Case, workspace: Workspace) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefloop", *arguments(case, workspace)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(case, workspace, done.stdout)


@pytest.mark.parametrize("case", IN_PROCESS, ids=lambda case: case.file)
def test_two_steps_in_this_process(case: Case, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments(case, workspace))
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    check(case, workspace, printed.out)


@pytest.mark.parametrize("case", SCANS, ids=lambda case: case.file)
def test_a_small_scan_by_the_real_command(
    case: Case, workspace: Workspace, bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = [] if "sandbox" in case.file else ["--set", f"run.start={bert_folder}"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*arguments(case, workspace), *start])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    result = json.loads(printed.out)
    assert (Path(result["run"]) / "report.html").is_file()
    for scan in result["scans"].values():
        assert all(math.isfinite(point["loss"]["value"]) for point in scan["points"])


def test_a_small_workforce_is_made_and_treated(tmp_path: Path) -> None:
    collect = RECIPES / "cleanliness_sandbox" / "collect.py"
    made = ["--workers", "12", "--comparisons", "4", "--overlap", "1"]
    _printed([str(collect), str(tmp_path / "w"), *made])
    found = json.loads(_printed(["-m", "prefloop", *arguments(CLEANLINESS, Workspace(tmp_path / "w"))]))
    names = {treatment["name"] for treatment in found["treatments"]}
    assert {"as they are", "30% flipped", "30% flipped, suspected dropped", "workers weighted"} <= names
    assert any(name.startswith("rejection sampled alone") for name in names)
    assert all(math.isfinite(treatment["accuracy"]["value"]) for treatment in found["treatments"])


def _printed(words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_steps_on_real_pairs(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = create_workspace(tmp_path / "real")
    lines = gzip.decompress((data_root / "hh-rlhf" / "helpful-online.jsonl.gz").read_bytes()).splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_bytes(b"".join(lines[:240]))
    with made.store() as store:
        assert import_file(store, "hh-rlhf", tmp_path / "some.jsonl", "online", "helpful").imported > 200
    for case in hh_cases(pairs_per_step=72):  # a tenth held out, two halves: two steps each
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments(case, made))
        assert ended.value.code == 0
        check(case, made, capsys.readouterr().out)
