"""The model server, in a process of its own: OpenAI-compatible chat for the registered snapshots, and PM scores.

Importing this room loads no torch: the page's process starts the server as a child (`ModelServerProcess`) and needs
none of it. Knows snapshots and models; knows no store and no page.
"""

from prefloop.engine.app import create_model_server
from prefloop.engine.manifest import read_manifest, write_manifest
from prefloop.engine.process import ModelServerProcess
from prefloop.engine.registry import Registry
from prefloop.engine.serve import end_with_parent, serve

__all__ = [
    "ModelServerProcess",
    "Registry",
    "create_model_server",
    "end_with_parent",
    "read_manifest",
    "serve",
    "write_manifest",
]
