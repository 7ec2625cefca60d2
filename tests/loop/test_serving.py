"""A page that another process serves ends with that process, even where it is killed."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest

from prefloop.loop.round import create_workspace

PARENT = """
    import sys, time
    from pathlib import Path
    from prefloop.loop.serving import served
    from prefloop.workspace import Workspace

    with served(Workspace(Path(sys.argv[1]))) as url:
        print(url, flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
def test_the_page_ends_with_its_killed_parent(tmp_path: Path) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(workspace.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert httpx.get(url, follow_redirects=True, trust_env=False).status_code < 500
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
        except httpx.ConnectError:
            return
        except httpx.HTTPError:
            pass  # it was ending
        time.sleep(0.1)
    pytest.fail(f"the page at {url} outlived its parent")
