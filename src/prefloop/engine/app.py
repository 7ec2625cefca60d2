"""The model server's routes, OpenAI-compatible, over a registry. Knows HTTP; knows no tensors.

GET  /v1/models              the policy snapshots
POST /v1/chat/completions    replies, whole or streamed
POST /v1/scores              raw scores of a preference model: {model, conversations} -> {scores}
GET  /health                 {"status": "ok", "running_rows": how many replies are being decoded}
POST /admin/reload           reads the manifest again; from this machine alone, with the token given at the start
and those of `completions`, for a PPO run that samples here
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from prefloop.engine.chat import ChatReply
from prefloop.engine.completions import sampling_routes
from prefloop.engine.registry import Registry
from prefloop.engine.requests import ApiError, ChatRequest, ScoresRequest, sentence_of
from prefloop.errors import DataError, NotFoundError, StateError, UserError

__all__ = ["create_model_server"]

_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_LOOK_FOR_DISCONNECT_SECONDS = 0.25
_CLIENT_IS_GONE = 499


def create_model_server(
    registry: Registry, admin_token: str | None = None, weights_folder: Path | None = None
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        registry: what is served; closed when the application ends.
        admin_token: opens POST /admin/reload; without one the route refuses everybody.
        weights_folder: from below it a run may load weights to sample from; without one from nowhere.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        registry.close()

    app = FastAPI(title="prefloop model server", lifespan=lifespan)
    _add_error_handlers(app)
    app.include_router(sampling_routes(registry, weights_folder))
    started_at = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(entry.snapshot.name) for entry in registry.assistants()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(registry.assistant(name).snapshot.name)

    def _model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started_at, "owned_by": "prefloop"}

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        reply = ChatReply(registry.assistant(body.model), body)
        headers = {"x-prefloop-dropped-turns": str(reply.dropped_turns)}
        if body.stream:
            return StreamingResponse(reply.stream(), media_type="text/event-stream", headers=headers)
        whole = asyncio.ensure_future(reply.whole())
        try:
            while not whole.done():
                await asyncio.wait([whole], timeout=_LOOK_FOR_DISCONNECT_SECONDS)
                if not whole.done() and await request.is_disconnected():
                    return Response(status_code=_CLIENT_IS_GONE)
            return JSONResponse(whole.result(), headers=headers)
        finally:
            whole.cancel()

    @app.post("/v1/scores")
    async def scores(body: ScoresRequest) -> dict[str, Any]:
        scorer = registry.scorer(body.model)
        return {"model": scorer.snapshot.name, "scores": await asyncio.to_thread(scorer.score, body.turns())}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running_rows": registry.running_rows}

    @app.post("/admin/reload")
    async def reload(request: Request) -> dict[str, Any]:
        _require_admin(request, admin_token)
        return (await asyncio.to_thread(registry.reload))._asdict()

    return app


def _require_admin(request: Request, token: str | None) -> None:
    """Errors: ApiError 403 from another machine, 401 without the right token."""
    if request.client is None or request.client.host not in _LOOPBACK:
        raise ApiError(403, "The server is administered from its own machine alone.", code="forbidden")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is None or not secrets.compare_digest(given.encode(), token.encode()):
        raise ApiError(401, "The admin token is missing or wrong; send the one the server was started with.")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(NotFoundError)
    async def not_found(_: Request, error: NotFoundError) -> Response:
        return ApiError(404, str(error), "model", "model_not_found").response()

    @app.exception_handler(StateError)
    async def not_now(_: Request, error: StateError) -> Response:
        return ApiError(503, str(error)).response()

    @app.exception_handler(DataError)
    async def wrong_data(_: Request, error: DataError) -> Response:
        return ApiError(400, str(error)).response()

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> Response:
        return ApiError(400, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def wrong_body(_: Request, error: RequestValidationError) -> Response:
        message, param = sentence_of(error.errors()[0])
        return ApiError(400, message, param).response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        known = {404: f"There is no {request.url.path} here.", 405: f"{request.url.path} has no {request.method}."}
        return ApiError(error.status_code, known.get(error.status_code, str(error.detail))).response()
