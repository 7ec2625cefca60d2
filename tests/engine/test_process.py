"""The server's life: ready, told of changes, restarted, refused in one sentence, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest

from prefloop.client import OpenAIResponder
from prefloop.engine import ModelServerProcess, read_manifest, write_manifest
from prefloop.engine.manifest import model_path
from prefloop.errors import DataError, ModelError, StateError, UnavailableError
from prefloop.schema import Message, ResponderRequest, Snapshot

ENDLESS = ResponderRequest(model="endless", messages=(Message(role="user", text="How are you today?"),))


def ask(server: ModelServerProcess, model: str) -> str | None:
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "How are you?"}], temperature=0.0, max_tokens=8
        )
    return reply.choices[0].message.content


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and only waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def end_of(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


async def test_a_life(served_folder: Path) -> None:
    """One server through everything, because each start costs seconds."""
    manifest = served_folder / "life.json"
    by_name = {snapshot.name: snapshot for snapshot in read_manifest(served_folder / "snapshots.json")}
    write_manifest(manifest, [by_name["base"], by_name["endless"]])
    with ModelServerProcess(manifest, threads=1, device="cpu") as server:
        before = ask(server, "base")
        # Snapshots come and go while it runs.
        new = by_name["base"].model_copy(update={"name": "new", "hash": "9"})
        write_manifest(manifest, [new, by_name["pm"], by_name["endless"]])
        assert server.reload() == {"added": ["new", "pm"], "retired": ["base"]}
        assert ask(server, "new") == before
        with pytest.raises(openai.NotFoundError, match="names served are: new, endless"):
            ask(server, "base")
        # A manifest that cannot be served changes nothing.
        gone = new.model_copy(update={"name": "gone", "path": "snapshots/gone"})
        write_manifest(manifest, [gone])
        with pytest.raises(UnavailableError, match=r"Snapshot 'gone' has no model at .*snapshots/gone"):
            server.reload()
        manifest.write_text('[{"name": 5}]')
        with pytest.raises(UnavailableError, match=r"is not a manifest: 0\.name is wrong"):
            server.reload()
        assert ask(server, "new") == before
        # Killed in the middle of a reply: the client hears of it.
        write_manifest(manifest, [by_name["endless"]])
        async with OpenAIResponder(server.base_url) as responder:
            kinds = []
            async for event in responder.stream(ENDLESS):
                kinds.append(event.kind)
                if len(kinds) == 1:
                    os.kill(server.pid, signal.SIGKILL)
            assert kinds[-1] == "error"
            assert set(kinds[:-1]) == {"delta"}
            assert "cannot be reached or broke off" in event.text
            deadline = time.monotonic() + 20
            while server.is_running and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            assert not server.is_running
            with pytest.raises(UnavailableError, match="start it again"):
                server.reload()
            # A restart takes the same port, so that the same responder goes on.
            port = server.port
            server.restart()
            assert server.port == port
            assert await responder.models() == ["endless"]
        pid = server.pid
    assert end_of(pid)
    with pytest.raises(StateError, match="not been started"):
        _ = server.pid


def test_the_server_ends_with_its_parent(served_folder: Path) -> None:
    manifest = served_folder / "orphan.json"
    write_manifest(manifest, [])
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom prefloop.engine import ModelServerProcess\n"
        f"server = ModelServerProcess(Path({str(manifest)!r}))\nserver.start()\n"
        "print(server.pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    assert end_of(pid)


def test_a_taken_port_is_told(served_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ModelServerProcess(served_folder / "snapshots.json", port, log=tmp_path / "server.log")
        with pytest.raises(UnavailableError, match=f"cannot listen on 127.0.0.1 port {port} .*choose another port"):
            server.start()
    assert not server.is_running
    assert f"port {port}" in (tmp_path / "server.log").read_text()


def test_a_missing_model_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", [Snapshot(name="gone", hash="1", path="./gone")])
    done = subprocess.run(
        [sys.executable, "-m", "prefloop.engine", "--manifest", str(tmp_path / "m.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"Snapshot 'gone' has no model at {tmp_path / 'gone'}; put the folder back or retire the snapshot."
    ]
    assert done.stdout == ""


def test_manifests_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    with pytest.raises(DataError, match=r"m.json does not exist"):
        read_manifest(file)
    for text, part in (
        ("{}", "the file is wrong"),
        ("[", "the file is wrong: invalid JSON"),
        ('[{"name": "a", "hash": "b", "path": "c", "colour": 1}]', "0.colour is wrong"),
        ('[{"name": "a", "hash": "b"}]', "0.path is wrong"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=part):
            read_manifest(file)
    one = Snapshot(name="one", hash="1", path="one")
    write_manifest(file, [one, one.model_copy(update={"hash": "2"})])
    with pytest.raises(DataError, match="names 'one' twice"):
        read_manifest(file)
    write_manifest(file, [one, one.model_copy(update={"hash": "2", "state": "retired"})])
    assert read_manifest(file) == [one]


def test_where_the_weights_are(tmp_path: Path) -> None:
    manifest = tmp_path / "m.json"
    (tmp_path / "snapshots" / "here").mkdir(parents=True)

    def path_of(path: str) -> str:
        return model_path(manifest, Snapshot(name="x", hash="1", path=path))

    assert path_of("snapshots/here") == str(tmp_path / "snapshots" / "here")
    assert path_of(str(tmp_path / "snapshots" / "here")) == str(tmp_path / "snapshots" / "here")
    assert path_of("somebody/a-model") == "somebody/a-model"
    assert path_of("gpt2") == "gpt2"
    for missing in ("snapshots/gone", "./gone", "../gone", "/nowhere/gone", "a/b/c"):
        with pytest.raises(ModelError, match="has no model at"):
            path_of(missing)
