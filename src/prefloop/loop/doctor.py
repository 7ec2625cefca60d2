"""What this machine can do, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from typing import Any

from prefloop.errors import PrefloopError
from prefloop.sandbox.tiny import SHIPPED, tiny_model

_EXTRAS = {"psycopg": "postgres", "pyarrow": "parquet"}


def examine() -> dict[str, Any]:
    """Versions, processors, extras; `missing` lists what prefloop cannot do without."""
    import torch

    missing: list[str] = []
    for name in SHIPPED:
        try:
            tiny_model(name)
        except PrefloopError as error:
            missing.append(str(error))
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "unknown")()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "cpu": capability,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "extras": {
            extra: "installed" if importlib.util.find_spec(module) else f"missing: pip install 'prefloop[{extra}]'"
            for module, extra in _EXTRAS.items()
        },
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "missing": missing,
    }
