"""What side-by-side measurements share: the other program's own environment, and a side run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def peer_python(folder: Path, packages: Sequence[str]) -> Path:
    """The python of the other program's environment; made where there is none."""
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        print(f"Making {folder} with {' '.join(packages)} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "made").touch()
    return python


def side(python: Path | str, script: Path, threads: int, *arguments: Path | str) -> dict[str, Any]:
    """What a script prints last, one JSON object, when it runs alone; `peer.py` sees none of our packages.

    Errors:
        SystemExit: it failed.
    """
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if script.name == "peer.py":
        env.pop("PYTHONPATH", None)
    command = [str(part) for part in (python, script, *arguments, "--threads", threads)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
