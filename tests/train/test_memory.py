"""What memory a process may have by what is written of it, and how its end is told."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.errors import ConfigError
from prefloop.train.memory import memory_bytes, one_sentence_where_memory_ends

CPU = torch.device("cpu")
TOO_MUCH = 2**47  # bytes: more than an address can reach


def a_system(root: Path, files: dict[str, str]) -> Path:
    """A machine whose process holds a thousand pages."""
    for name, text in ({"proc/self/statm": "5000 1000 300 1 0 900 0\n"} | files).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


HELD = 1000 * resource.getpagesize()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 16 kB\nMemAvailable: 1024 kB\n"}, 2**20 + HELD),
        (  # version 2; 100 MiB of 300 are file pages that can go: 512 - 200 are left
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": f"{300 * 2**20}\n",
                "sys/fs/cgroup/job/memory.max": f"{512 * 2**20}\n",
                "sys/fs/cgroup/job/memory.current": f"{300 * 2**20}\n",
                "sys/fs/cgroup/job/memory.stat": f"anon 7\ninactive_file {100 * 2**20}\n",
            },
            312 * 2**20 + HELD,
        ),
        (  # version 1, inside of a container that sees its own group as the root
            {
                "proc/self/cgroup": "5:cpu:/elsewhere\n4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * 2**20}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{16 * 2**20}\n",
                "sys/fs/cgroup/memory/memory.stat": "cache 5\ntotal_inactive_file 0\n",
            },
            48 * 2**20 + HELD,
        ),
    ],
    ids=["other programs", "version 2", "version 1"],
)
def test_the_least_limit_counts(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert memory_bytes(CPU, a_system(tmp_path, files)) == expected


def test_this_machine_has_some() -> None:
    assert 2**24 < memory_bytes(CPU) < 2**50


def test_the_end_of_memory_is_one_sentence(tmp_path: Path) -> None:
    ways = ("lower tokens_per_forward (now 9) to 4", "take a machine with more memory")
    with pytest.raises(ConfigError) as told, one_sentence_where_memory_ends(ways, tmp_path):
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    assert "asked for 131072.00 GiB more, and may have" in str(told.value)  # 2^47 / 2^30 = 2^17
    assert str(told.value).endswith("lower tokens_per_forward (now 9) to 4, or take a machine with more memory.")
    (tmp_path / "step-00000004").mkdir()
    stay = rf"more memory; the checkpoints in {tmp_path} stay\.$"
    with pytest.raises(ConfigError, match=stay), one_sentence_where_memory_ends(ways, tmp_path):
        np.empty(TOO_MUCH, dtype=np.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), one_sentence_where_memory_ends(()):
        torch.zeros(2, 3).reshape(7)
