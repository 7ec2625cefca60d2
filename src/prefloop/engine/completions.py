"""Completions over token ids, and weights loaded while serving: what a PPO run elsewhere asks of its sampler.

The routes and their fields are those of vLLM's server, so that a run speaks to either in the same words:

POST /v1/completions          {model, prompt: ids, n, seed, ...} -> token ids and their log-probabilities
POST /collective_rpc          {method: "reload_weights", kwargs: {weights_path}}: a whole model, served as "rollout"
POST /v1/load_lora_adapter    {lora_name, lora_path}: an adapter, served under its name
POST /v1/unload_lora_adapter  {lora_name}
POST /reset_prefix_cache      nothing to do: no prompt's cache outlives its rows here

Weights come from below one folder alone, and from nowhere where the server was started without one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from prefloop.engine.decoding import Job
from prefloop.engine.registry import Assistant, Registry
from prefloop.engine.requests import AdapterRequest, ApiError, CompletionRequest

__all__ = ["ROLLOUT", "sampling_routes"]

ROLLOUT = "rollout"
"""The name under which a whole model that a run has loaded is served."""


def sampling_routes(registry: Registry, weights_folder: Path | None) -> APIRouter:
    """The routes, for `create_model_server`."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(body: CompletionRequest) -> dict[str, Any]:
        return await _completed(registry.assistant(body.model), body)

    @router.post("/collective_rpc")
    async def collective_rpc(body: dict[str, Any]) -> dict[str, Any]:
        method, arguments = body.get("method"), body.get("kwargs")
        if method != "reload_weights" or not isinstance(arguments, dict):
            raise ApiError(400, f"The one method here is 'reload_weights' with kwargs, not {method!r}.", "method")
        path = _allowed(weights_folder, arguments.get("weights_path"))
        await asyncio.to_thread(registry.serve_weights, ROLLOUT, path)
        return {"results": [None]}

    @router.post("/v1/load_lora_adapter")
    async def load_adapter(body: AdapterRequest) -> Response:
        await asyncio.to_thread(registry.serve_weights, body.lora_name, _allowed(weights_folder, body.lora_path))
        return Response()

    @router.post("/v1/unload_lora_adapter")
    async def unload_adapter(body: AdapterRequest) -> Response:
        await asyncio.to_thread(registry.drop_weights, body.lora_name)
        return Response()

    @router.post("/reset_prefix_cache")
    async def reset_prefix_cache() -> Response:
        return Response()

    return router


async def _completed(assistant: Assistant, request: CompletionRequest) -> dict[str, Any]:
    """A text_completion object. A client that leaves takes its rows with it.

    Errors:
        ApiError: something unsupported is asked for, the window is full, or an id is none of the model's.
        StateError: the decoding failed.
    """
    from prefloop.models.sampling import row_key

    request.refuse_unsupported(assistant.renderer.end_id)
    vocabulary, window = assistant.vocabulary, assistant.window_tokens
    if len(request.prompt) >= window:
        raise ApiError(
            400,
            f"The prompt has {len(request.prompt)} tokens, and the model's window {window}; shorten it.",
            "prompt",
            "context_length_exceeded",
        )
    if not all(0 <= token < vocabulary for token in request.prompt):
        raise ApiError(
            400,
            f"The prompt holds {max(request.prompt)}, and the ids of this model are 0 to {vocabulary - 1}.",
            "prompt",
        )
    seed = secrets.randbits(63) if request.seed is None else request.seed
    keys = [row_key(seed, 0, index) for index in range(request.n)]
    job = Job(request.prompt, request.sampling(), keys, assistant.renderer.decode)
    texts, reasons = [""] * request.n, ["error"] * request.n
    assistant.thread.submit(job)
    try:
        async for updates in job.updates():
            for reply, text, reason in updates:
                texts[reply] += text
                reasons[reply] = reason or reasons[reply]
    finally:
        assistant.thread.cancel(job)
    choices: list[dict[str, Any]] = []
    for index in range(request.n):
        choices.append({"index": index, "text": texts[index], "finish_reason": reasons[index], "logprobs": None})
        if request.logprobs is not None:
            names = [f"token_id:{token}" for token in job.ids[index]]
            choices[-1]["logprobs"] = {"tokens": names, "token_logprobs": job.logps[index]}
        if request.return_token_ids:
            choices[-1] |= {"token_ids": job.ids[index], "prompt_token_ids": request.prompt}
    drawn = sum(job.tokens)
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": assistant.snapshot.name,
        "choices": choices,
        "usage": {
            "prompt_tokens": len(request.prompt),
            "completion_tokens": drawn,
            "total_tokens": len(request.prompt) + drawn,
        },
    }


def _allowed(folder: Path | None, path: object) -> Path:
    """The path, where weights may be loaded from it."""
    if folder is None:
        raise ApiError(403, "This server loads no weights while it runs; start it with --weights-folder FOLDER.")
    if not isinstance(path, str):
        raise ApiError(400, "The path of the weights is missing; give the folder's.")
    wanted = Path(path).resolve()
    if not wanted.is_relative_to(folder.resolve()):
        raise ApiError(403, f"This server loads weights from below {folder} alone, and {path} is not there.")
    if not wanted.is_dir():
        raise ApiError(404, f"There is no folder {path} here; write the weights where this server sees them too.")
    return wanted
