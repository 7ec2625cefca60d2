"""Work in processes side by side: order, errors, and children that end with a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefloop.errors import DataError, TrainingError
from prefloop.loop.side_by_side import side_by_side

two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing runs side by side")


def told(place: int, number: int) -> tuple[int, int, int]:
    return place, number, os.getpid()


def meets(place: int, number: int, folder: str) -> tuple[int, int, int]:
    """Ends only when both have begun, so that one process cannot do the work of two."""
    Path(folder, str(place)).touch()
    deadline = time.monotonic() + 120
    while len(os.listdir(folder)) < 2:
        assert time.monotonic() < deadline, "the other one never began"
        time.sleep(0.01)
    return told(place, number)


def refused(place: int, number: int) -> int:
    raise DataError(f"{number} is refused.")


def killed(place: int, number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(place: int, folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


@two_cores
def test_results_come_in_order_from_processes_of_their_own(tmp_path: Path) -> None:
    one, two = side_by_side(meets, [(10, str(tmp_path)), (20, str(tmp_path))])
    assert (one[:2], two[:2]) == ((0, 10), (1, 20))
    assert len({one[2], two[2], os.getpid()}) == 3


def test_with_too_few_cores_they_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert side_by_side(told, [(10,), (20,)]) == [(0, 10, os.getpid()), (0, 20, os.getpid())]


@two_cores
def test_errors_come_back_as_they_are() -> None:
    with pytest.raises(DataError, match="3 is refused"):
        side_by_side(refused, [(3,), (3,)])


@two_cores
def test_a_killed_child_gets_one_sentence() -> None:
    with pytest.raises(TrainingError, match="killed"):
        side_by_side(killed, [(1,), (2,)])


@two_cores
def test_children_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from prefloop.loop.side_by_side import side_by_side\n"
        "from test_side_by_side import sleeps\n"
        f"if __name__ == '__main__': side_by_side(sleeps, [({str(tmp_path)!r},), ({str(tmp_path)!r},)])\n"
    )
    main = tmp_path / "main.py"
    main.write_text(script)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen([sys.executable, str(main)], env=os.environ | {"PYTHONPATH": paths})
    children = wait_for(lambda: [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()], 2)
    parent.kill()
    parent.wait()
    wait_for(lambda: [child for child in children if not is_alive(child)], 2)


def is_alive(pid: int) -> bool:
    """A zombie that nobody waits for counts as ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(found, count: int) -> list[int]:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while len(result := found()) < count:
        assert time.monotonic() < deadline, result
        time.sleep(0.1)
    return list(result)
