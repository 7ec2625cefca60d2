"""The walls of the house: who may import whom, where SQL and prompts stand, what a module looks like.

Each rule is a function over the parsed sources, and each is shown to find a planted fault: a rule that cannot fail
holds nothing.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "prefloop"

ROWS = (
    {"__main__"},
    {"cli"},
    {"loop"},
    {"train", "evals", "engine", "web", "sandbox"},
    {"models", "quality"},
    {"client", "report", "render", "runs", "workspace", "pair_file", "losses", "stats"},
    {"store"},
    {"study"},
    {"config"},
    {"schema", "errors"},
)
"""Top to bottom. A room imports from rows below its own and from itself, never from its own row or above."""

TORCH_FREE = (
    "prefloop.schema",
    "prefloop.errors",
    "prefloop.config",
    "prefloop.study",
    "prefloop.store",
    "prefloop.stats",
    "prefloop.report",
    "prefloop.client",
    "prefloop.quality",
    "prefloop.web",
    "prefloop.workspace",
    "prefloop.runs",
    "prefloop.pair_file",
    "prefloop.render",
    "prefloop.engine.process",
    "prefloop.cli",
)
"""The page and the command line start where no torch is installed, and fast."""

SQL_PACKAGES = {"sqlalchemy", "alembic", "sqlite3", "psycopg"}
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s.+\sSET|DELETE\s+FROM|(CREATE|DROP|ALTER)\s+TABLE)\b", re.S
)
PROMPTS = re.compile(
    r"apply_chat_template|chat_template\s*=|<\|(user|assistant|system|end|pad)\|>|\n\n(Human|Assistant):"
)

BORDERS = {
    "web/generation.py": "web requests, the page: a turn that fails is voided and recorded, the page goes on",
    "engine/decoding.py": "web requests, the model server: a failed step is told to its readers, the thread goes on",
    "store/writer.py": "hands the error of a unit of work to the thread that asked for it, as an executor does",
}
"""Where one `except Exception` may stand without raising again."""

LONG_FILES = {
    "store/migrations/versions/0001_the_first_tables.py": "a migration is a record: never edited, never split"
}
MAX_LINES = 425  # about 400


class Module(NamedTuple):
    """A parsed source file; `path` is relative to the package."""

    path: str
    text: str

    @property
    def room(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)


def modules(folder: Path = SOURCE) -> list[Module]:
    return [
        Module(file.relative_to(folder).as_posix(), file.read_text(encoding="utf-8"))
        for file in sorted(folder.rglob("*.py"))
    ]


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import; `from prefloop import x` is `prefloop.x`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno} imports relatively; write the full name"
            if node.module == "prefloop":
                yield from ((node.lineno, f"prefloop.{name.name}") for name in node.names)
            else:
                yield node.lineno, node.module or ""


def row_of(room: str) -> int:
    return next(index for index, row in enumerate(ROWS) if room in row)


def layer_faults(module: Module) -> list[str]:
    """Imports that go up or sideways."""
    if module.room == "__init__":
        return [
            f"{module.path}:{line} imports {name}" for line, name in imported(module) if name.startswith("prefloop")
        ]
    faults = []
    for line, name in imported(module):
        parts = name.split(".")
        if parts[0] != "prefloop" or parts[1:2] in ([], ["__version__"], [module.room]):
            continue
        if row_of(parts[1]) <= row_of(module.room):
            faults.append(f"{module.path}:{line} imports {name}: {module.room} may import only from rows below its own")
    return faults


def sql_faults(module: Module) -> list[str]:
    """SQL outside of the store."""
    if module.room == "store":
        return []
    faults = [
        f"{module.path}:{line} imports {name}" for line, name in imported(module) if name.split(".")[0] in SQL_PACKAGES
    ]
    return faults + [f"{module.path}:{line} holds SQL" for line, text in strings(module) if SQL.search(text)]


def prompt_faults(module: Module) -> list[str]:
    """Prompts built outside of `render`."""
    if module.path == "render.py":
        return []
    names = [
        (node.lineno, node.attr if isinstance(node, ast.Attribute) else node.id)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name)
    ]
    return [
        f"{module.path}:{line} builds a prompt ({PROMPTS.search(text).group()!r})"  # type: ignore[union-attr]
        for line, text in [*strings(module), *names]
        if PROMPTS.search(text)
    ]


def strings(module: Module) -> list[tuple[int, str]]:
    """Every string literal that is not a docstring."""
    tree = module.tree
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def except_faults(module: Module) -> list[str]:
    """Handlers that catch everything and go on. One that raises again (to clean up) catches nothing."""
    faults = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        is_broad = any(
            one is None or (isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")) for one in caught
        )
        last = node.body[-1]
        if is_broad and not (isinstance(last, ast.Raise) and last.exc is None):
            faults.append(f"{module.path}:{node.lineno} catches everything; name the errors that can come")
    return faults[1:] if module.path in BORDERS else faults


def export_faults(module: Module) -> list[str]:
    """An `__init__` with public names and no `__all__`, or with one that names what is not there, or twice."""
    public: list[str] = []
    exported: list[str] | None = None
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            public += [name.asname or name.name for name in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            public.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            public.append(node.target.id)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "__all__":
                exported = ast.literal_eval(node.value)
            else:
                public.append(node.targets[0].id)
    public = [name for name in public if not name.startswith("_")]
    if exported is None:
        return [f"{module.path} has public names ({', '.join(public)}) and no __all__"] if public else []
    faults = [f"{module.path}: {name} is in __all__ and not there" for name in exported if name not in public]
    if len(set(exported)) != len(exported):
        faults.append(f"{module.path}: __all__ names something twice")
    return faults


def check(faults: list[str]) -> None:
    assert not faults, "\n".join(faults)


def test_every_room_has_its_row() -> None:
    rooms = {module.room for module in modules()} - {"__init__"}
    rows = set().union(*ROWS)
    assert rooms <= rows, f"put {rooms - rows} into a row of ROWS"
    assert len(rows) == sum(map(len, ROWS)), "a room stands in two rows"


def test_imports_go_down() -> None:
    check([fault for module in modules() for fault in layer_faults(module)])


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("store/reading.py", "from prefloop.models import trie"),  # up
        ("web/app.py", "from prefloop.engine import serve"),  # sideways
        ("schema.py", "import prefloop.errors"),  # sideways, at the bottom
        ("stats/bias.py", "def f():\n    from prefloop.report import line_plot"),  # inside of a function counts
        ("losses/kl.py", "from prefloop import train"),
        ("__init__.py", "from prefloop import schema"),
    ],
)
def test_a_wrong_import_is_found(path: str, line: str) -> None:
    assert len(layer_faults(Module(path, line))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("loop/round.py", "from prefloop.train.policy import train_policy"),
        ("web/app.py", "from prefloop.web.draw import Draw\nimport torch"),
        ("runs.py", "from prefloop import __version__"),
    ],
)
def test_a_right_import_is_let_through(path: str, line: str) -> None:
    assert layer_faults(Module(path, line)) == []


def test_losses_import_only_torch() -> None:
    allowed = {"prefloop", "torch", "jaxtyping"} | sys.stdlib_module_names
    check(
        [
            f"{module.path}:{line} imports {name}"
            for module in modules()
            if module.room == "losses"
            for line, name in imported(module)
            if name.split(".")[0] not in allowed or (name.startswith("prefloop") and "losses" not in name)
        ]
    )


def first_with_torch(names: tuple[str, ...]) -> str:
    """The first of the modules whose import, in this order in a fresh interpreter, brings torch in; "" if none."""
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(print(name))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_and_the_command_line_start_without_torch() -> None:
    assert first_with_torch(TORCH_FREE) == ""


def test_a_room_with_torch_would_be_found() -> None:
    assert first_with_torch(("prefloop.schema", "prefloop.losses")) == "prefloop.losses"


def test_only_the_store_has_sql() -> None:
    check([fault for module in modules() for fault in sql_faults(module)])
    assert sql_faults(Module("web/app.py", "import sqlalchemy.orm"))
    assert sql_faults(Module("loop/data.py", 'rows = run("SELECT id FROM judgment")'))
    assert not sql_faults(Module("loop/data.py", '"""SELECT a model FROM the list."""\nx = "select one from these"'))


def test_only_render_builds_prompts() -> None:
    check([fault for module in modules() for fault in prompt_faults(module)])
    assert prompt_faults(Module("engine/chat.py", "tokenizer.apply_chat_template(messages)"))
    assert prompt_faults(Module("train/lm.py", 'text = "<|user|>" + message.text'))
    assert not prompt_faults(Module("render.py", 'USER = "<|user|>"'))


def test_nothing_catches_everything() -> None:
    check([fault for module in modules() for fault in except_faults(module)])
    assert except_faults(Module("a.py", "try:\n    f()\nexcept Exception:\n    pass"))
    assert except_faults(Module("a.py", "try:\n    f()\nexcept (ValueError, Exception) as error:\n    log(error)"))
    assert except_faults(Module("a.py", "try:\n    f()\nexcept:\n    pass"))
    assert not except_faults(Module("a.py", "try:\n    f()\nexcept BaseException:\n    clean()\n    raise"))


def test_every_module_says_what_it_is_for() -> None:
    check([f"{module.path} has no docstring" for module in modules() if not ast.get_docstring(module.tree)])


def test_files_are_short() -> None:
    lengths = {module.path: module.text.count("\n") for module in modules()}
    check(
        [
            f"{path} has {lines} lines, {MAX_LINES} are allowed; split it by its nouns"
            for path, lines in lengths.items()
            if lines > MAX_LINES and path not in LONG_FILES
        ]
    )
    assert all(lengths[path] > MAX_LINES for path in LONG_FILES), "an exception is no longer needed"


def test_there_is_no_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}
    check(
        [
            f"{module.path}: put each helper where its noun lives"
            for module in modules()
            if drawers & set(module.path.removesuffix(".py").split("/"))
        ]
    )


def test_every_folder_is_a_package() -> None:
    scripts = SOURCE / "store" / "migrations" / "versions"  # Alembic reads them by their path
    folders = {file.parent for file in SOURCE.rglob("*.py")} - {scripts}
    check([f"{folder} has no __init__.py" for folder in sorted(folders) if not (folder / "__init__.py").is_file()])


def test_exports() -> None:
    inits = [module for module in modules() if module.path.endswith("__init__.py")]
    check([fault for module in inits for fault in export_faults(module)])
    for module in inits:
        name = ".".join(["prefloop", *module.path.split("/")[:-1]])
        package = importlib.import_module(name)
        for exported in getattr(package, "__all__", ()):
            assert hasattr(package, exported), f"{name}.__all__ names {exported}, which is not there"


def test_wrong_exports_are_found() -> None:
    assert export_faults(Module("a/__init__.py", "from prefloop.schema import Message"))
    assert export_faults(Module("a/__init__.py", "from prefloop.schema import A\n__all__ = ['A', 'B']"))
    assert export_faults(Module("a/__init__.py", "class A: ...\n__all__ = ['A', 'A']"))
    assert not export_faults(Module("a/__init__.py", "from prefloop.schema import A\n__all__ = ['A']\n_b = 1"))


def _named(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def _undeclared(files: list[Module], declared: set[str], own: set[str]) -> list[str]:
    distributions = packages_distributions()
    faults = []
    for module in files:
        for line, name in imported(module):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in own:
                continue
            owners = {owner.lower().replace("_", "-") for owner in distributions.get(top, [top])}
            if not owners & declared:
                faults.append(f"{module.path}:{line} imports {top}, which is not among the dependencies")
    return faults


def test_the_package_imports_only_its_dependencies() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    runtime = _named(project["dependencies"] + [name for extra in extras if extra != "dev" for name in extras[extra]])
    check(_undeclared(modules(), runtime, {"prefloop"}))
    tests = modules(REPOSITORY / "tests") + modules(REPOSITORY / "benchmarks")
    own = {module.path.split("/")[-1].removesuffix(".py") for module in tests}
    tests = [module for module in tests if not module.path.endswith("/peer.py")]  # those run in the peers' environments
    check(_undeclared(tests, runtime | _named(extras["dev"]), own | {"prefloop"}))
    assert _undeclared([Module("a.py", "import not_a_dependency")], runtime, set())


def test_what_is_pinned_is_what_is_needed() -> None:
    """Every dependency has an exact pin, torch without a build suffix, so that a plain install takes it as it is."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = _named(project["dependencies"]).union(*map(_named, project["optional-dependencies"].values()))
    assert wanted - {"prefloop"} <= {name.lower().replace("_", "-") for name in pins}
    assert re.fullmatch(r"\d+\.\d+\.\d+", pins["torch"])


def test_test_files_have_names_of_their_own() -> None:
    names = [file.name for file in (REPOSITORY / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names), sorted(name for name in set(names) if names.count(name) > 1)
