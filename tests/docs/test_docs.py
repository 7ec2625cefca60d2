"""Documents held to the code: metrics, settings, errors, nouns, dependencies, commands, links and the folder tree."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from pydantic import ValidationError

from prefloop import errors, schema
from prefloop.cli import cli
from prefloop.config import Config
from prefloop.evals import elo, policy, preference
from prefloop.evals.comparisons import LogpAccuracy
from prefloop.evals.preference_difference import preference_differences
from prefloop.schema import Interval, Noun, PreferencePair
from prefloop.stats import elo as elo_of
from prefloop.train.ppo_update import PolicyUpdate, ValueUpdate
from prefloop.train.snapshots import PolicySnapshot

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "prefloop"
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

METRIC = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")
FORMED = re.compile(r"^(\{\}|[a-z][a-z0-9_]*)/[a-z0-9_{}]*$")
ONE = Interval(value=1.0, low=0.5, high=1.5, n=2)


def documented_metrics() -> dict[str, str]:
    """Name -> definition, from the tables of docs/metrics.md."""
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.M)
    return dict(rows)


def written_metrics() -> Iterator[tuple[str, str]]:
    """Place and name of every literal "group/name" in the rooms that log or store numbers."""
    for room in ("train", "evals", "loop"):
        for file in sorted((SOURCE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and METRIC.fullmatch(node.value):
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", node.value


def formed_metrics() -> Iterator[tuple[str, str]]:
    """Place and pattern of every name that is put together: f"time/{name}_seconds" is time/{}_seconds."""
    for room in ("train", "evals", "loop"):
        for file in sorted((SOURCE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
                    if FORMED.match(text):
                        yield f"{file.relative_to(SOURCE)}:{node.lineno}", text


class _Lengths:
    """Scores a reply by its length."""

    def score(self, conversations: Any) -> list[float]:
        return [float(len(conversation[-1].text)) for conversation in conversations]


def names_at_run_time() -> dict[str, set[str]]:
    """What each put-together pattern becomes, taken from the code that forms it."""
    sides = [("long one", "x"), ("x", "long one"), ("longer", "y"), ("longest", "z")]
    pairs = [PreferencePair(context=(), chosen=a, rejected=b, turn=n) for n, (a, b) in enumerate(sides, 1)]
    named = {"comparison_id": "c", "chosen_side": "a"}
    twice = [one.model_copy(update=named | {"worker_id": worker}) for one in pairs for worker in "xy"]
    evaluated = preference.evaluate_preference(
        _Lengths(), twice, choice_probabilities=[0.7] * len(twice), words={None: _Lengths()}
    )
    differences = preference_differences({"m": evaluated, "n": evaluated}, twice)
    replies = policy.Replies(
        scores={"pm": ONE},
        tokens=ONE,
        stopped=ONE,
        distinct={1: ONE},
        entropy=ONE,
        self_similarity=ONE,
        length_correlation={"pm": ONE},
    )
    compared = policy.PolicyEvaluation(
        prompts=2,
        policy=replies,
        base=replies,
        differences={"pm": ONE},
        win_rates={"pm": ONE},
        kl=ONE,
        samples=(),
        people=ONE,
        logp_accuracy=LogpAccuracy(pairs=2, dropped_long=0, policy={"all": ONE}, base={}, ceilings={}),
    )
    table = elo_of(["a", "b"], ["b", "a"], [1.0, 1.0], anchor="a", resamples=2)
    rated = elo.SnapshotElo(table=table, judgments=2, dropped={}, cluster_by="conversation")
    snapshot = PolicySnapshot(
        episodes=0,
        path="",
        score_train=ONE,
        score_held_out=ONE,
        score_gold=ONE,
        scores_watching={"NAME": ONE},
        kl=ONE,
        reply_tokens=ONE,
        stopped=ONE,
    )
    laps = re.findall(
        r'(?:clock\.lap\(|partial\(clock\.lap, )"(\w+)"', (SOURCE / "train" / "policy.py").read_text("utf-8")
    )
    assert laps
    updates = {f"policy/{name}" for name in PolicyUpdate._fields} | {f"value/{name}" for name in ValueUpdate._fields}
    return {
        "preference_eval/{}": {row.metric for row in [*evaluated.results("m"), *differences[0].results()]},
        "policy_eval/{}": {row.metric for row in compared.results("m")},
        "elo/{}": {row.metric for row in rated.results()},
        "eval/{}": set(snapshot.metrics()),
        "time/{}_seconds": {f"time/{lap}_seconds" for lap in laps},
        "{}/{}": updates,
    }


def undocumented(names: set[str]) -> set[str]:
    """The ends of an interval belong to the metric that they are of."""
    return {re.sub(r"_(low|high)$", "", name) for name in names} - set(documented_metrics())


def test_every_metric_is_defined() -> None:
    known = documented_metrics()
    missing = [f"{name} ({place})" for place, name in written_metrics() if name not in known]
    assert not missing, f"define in docs/metrics.md: {', '.join(sorted(missing))}"
    assert all(definition.strip() for definition in known.values())


def test_every_metric_whose_name_is_put_together_is_defined() -> None:
    formed = names_at_run_time()
    for place, pattern in formed_metrics():
        group = re.sub(r"_(low|high)$", "", pattern)
        assert group in formed, f"{place} forms {pattern}: add to names_at_run_time what it becomes"
    for pattern, names in formed.items():
        assert not undocumented(names), f"{pattern}: define in docs/metrics.md"


def test_every_defined_metric_exists() -> None:
    names = {name for _, name in written_metrics()}.union(*names_at_run_time().values())
    assert set(documented_metrics()) <= names, "docs/metrics.md defines what nothing logs"


def test_an_undefined_metric_would_be_found() -> None:
    assert undocumented({"policy/no_such_thing", "eval/kl_low"}) == {"policy/no_such_thing"}
    assert FORMED.match("eval/{}_low")
    assert not FORMED.match("{}/v1/models of {}")


@pytest.fixture(scope="module")
def write_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_settings", DOCS / "write_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_says_what_it_does(write_settings: ModuleType) -> None:
    classes: list[type[Config]] = write_settings.settings_classes()
    assert {"WorkspaceSettings", "PolicyRun", "RoundSettings"} <= {cls.__name__ for cls in classes}
    missing = [
        f"{cls.__module__}.{cls.__name__}.{name}"
        for cls in classes
        for name, field in cls.model_fields.items()
        if not field.description and not (isinstance(field.annotation, type) and issubclass(field.annotation, Config))
    ]
    assert not missing, "give a description with its unit or consequence: " + ", ".join(missing)


def test_no_setting_takes_a_seed_that_no_generator_takes(write_settings: ModuleType) -> None:
    named = [(cls, name) for cls in write_settings.settings_classes() for name in cls.model_fields if "seed" in name]
    assert len(named) >= 9
    for cls, name in named:
        for seed, is_good in ((0, True), (2**32 - 1, True), (-1, False), (2**32, False), (10**23, False)):
            with pytest.raises(ValidationError) as refused:
                cls.model_validate({name: seed if name == "seed" else [seed], "unknown": 0})
            assert is_good == all(error["loc"][0] != name for error in refused.value.errors()), (cls, seed)


def test_no_option_takes_a_seed_that_no_generator_takes() -> None:
    seeds = [one for command in _all_commands(cli) for one in command.params if one.name == "seed"]
    assert len(seeds) >= 5
    assert all(isinstance(one.type, click.IntRange) and one.type.min == 0 for one in seeds)


def _all_commands(command: click.Command) -> list[click.Command]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(found for one in inner for found in _all_commands(one))]


def test_the_page_of_settings_is_up_to_date(write_settings: ModuleType) -> None:
    assert write_settings.PAGE.read_text(encoding="utf-8") == write_settings.settings_page(), "run: make docs"


def test_every_error_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"(\w+Error)\b", errors.__doc__.split("A message gives")[0])
    assert set(errors.__all__) <= set(drawn)
    for name, *standard in re.findall(r"── (\w+Error) +(\w+Error):", errors.__doc__):
        cls = getattr(errors, name)
        assert standard[0] in {parent.__name__ for parent in cls.__mro__}, f"{name} is drawn with {standard[0]}"


def test_every_noun_stands_in_the_glossary() -> None:
    page = (DOCS / "schema.md").read_text(encoding="utf-8")
    for name, value in vars(schema).items():
        if isinstance(value, type) and value.__module__ == schema.__name__:
            assert f"`{name}`" in page, f"docs/schema.md does not name {name}"
    for cls in (schema.Mode, schema.Tranche, schema.ResponseState, schema.ComparisonState):
        for member in cls:
            assert f"`{member.value}`" in page
    nouns = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert all(hasattr(schema, name) for name in nouns), "docs/schema.md names what is no longer there"
    assert Noun.__name__ in page


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "decisions" / "001-dependencies.md").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + [name for extra in extras if extra != "dev" for name in extras[extra]]
    rows = set(re.findall(r"^\| ([\w-]+) \| \w", page, re.M)) - {"package"}
    assert rows == {re.split(r"[\[<>=!~;]", name)[0] for name in needed}
    for name in extras["dev"]:
        assert name.startswith("prefloop[") or re.search(rf"\b{name}\b", page.split("For developers:")[1])


def test_decisions_have_their_four_parts() -> None:
    files = sorted((DOCS / "decisions").glob("*.md"))
    assert [int(file.name[:3]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"# {file.name[:3]} "), file.name
        for part in ("Context", "Choice", "Consequences", "When to revisit"):
            assert text.count(f"**{part}.**") == 1, f"{file.name} lacks {part}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(text: str) -> list[list[str]]:
    """The words of every `prefloop ...` line in code blocks, fenced or indented."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S) + re.findall(r"^    .+$", text, re.M)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    lines = [re.sub(r"^\.venv/bin/", "", line).split(" #")[0].split("   ")[0] for line in lines]
    return [shlex.split(line) for line in lines if line.startswith("prefloop ")]


def wrong_command(root: click.Command, words: list[str]) -> str | None:
    """What is wrong with a documented command: an unknown subcommand or option; None if nothing."""
    command, rest = root, words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.commands.get(rest[0])
        if below is None:
            return f"{command.name} has no command {rest[0]}"
        command, rest = below, rest[1:]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h", "--version"}
    for word in rest:
        name = word.strip("[]").split("=")[0]
        if name.startswith("-") and name not in options:
            return f"{command.name} has no option {name}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_exist(page: Path) -> None:
    from prefloop.cli import cli

    for words in commands(page.read_text(encoding="utf-8")):
        fault = wrong_command(cli, words)
        assert fault is None, f"{page.name}: {' '.join(words)}: {fault}"


def test_a_wrong_command_would_be_found() -> None:
    from prefloop.cli import cli

    text = "```\n$ prefloop demo --no-serve   # one round\nprefloop no-such\n```\n\n    prefloop serve --no-such\n"
    faults = [wrong_command(cli, words) for words in commands(text)]
    assert faults == [None, "cli has no command no-such", "serve has no option --no-such"]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        for target in re.findall(r"(?:^|`|    )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M):
            if target.startswith("bench-"):
                assert (REPOSITORY / "benchmarks" / f"bench_{target.removeprefix('bench-')}.py").is_file(), target
            else:
                assert target in targets, f"{page.name}: make {target}"


def tree_block() -> str | None:
    """The README's folder tree: the code block that names src/prefloop/."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", README, re.M | re.S)
    return next((block for block in blocks if "src/prefloop/" in block), None)


@pytest.mark.skipif(tree_block() is None, reason="the README has no folder tree yet")
def test_the_folder_tree_is_whole() -> None:
    tree = tree_block() or ""
    rooms = [path.name + ("/" if path.is_dir() else "") for path in sorted(SOURCE.iterdir())]
    for room in rooms:
        if not room.startswith("__"):
            assert re.search(rf"(^|[\s/]){re.escape(room)}", tree, re.M), f"the README's tree lacks {room}"
    for named in re.findall(r"^\s+([a-z_]+(?:/|\.py))", tree, re.M):
        assert any((folder / named).exists() for folder in (SOURCE, REPOSITORY, REPOSITORY / "src")), f"{named} is gone"
