"""`create_app`: the page as a value. Puts the parts together; knows nothing of what any of them does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

import prefloop
from prefloop.config import WorkspaceSettings
from prefloop.schema import Responder
from prefloop.store import Store
from prefloop.web import (
    accounts,
    care_api,
    people,
    people_api,
    research_api,
    researcher,
    review_api,
    reviewing,
    study_forms,
    submissions,
    worker_api,
    worker_pages,
)
from prefloop.web.broker import Broker
from prefloop.web.care import Care
from prefloop.web.checks import Checks
from prefloop.web.generation import Generation
from prefloop.web.live_quality import LiveQuality
from prefloop.web.passwords import Guesses
from prefloop.web.phases import Phases
from prefloop.web.problems import PROBLEMS, add_problem_handlers
from prefloop.web.security import SecurityMiddleware
from prefloop.web.services import Services
from prefloop.web.settings import PageSettings
from prefloop.web.store_threads import StoreThreads
from prefloop.web.turns import Turns

HERE = Path(__file__).parent
DESCRIPTION = (
    "Workers are known by the cookie of their invitation link, researchers by the cookie of their session or by "
    "`Authorization: Bearer TOKEN`. Every refusal has one shape: an `error` with a `code` and a `message`."
)


def create_app(
    settings: WorkspaceSettings,
    store: Store,
    responder: Responder,
    *,
    page: PageSettings | None = None,
    quality_report: Path | None = None,
) -> FastAPI:
    """The worker's and the researcher's pages over one store and one responder, both of which stay the caller's.

    Args:
        settings: the workspace's; kept at `app.state.settings`.
        responder: answers under the names of the store's snapshots.
        page: time limits.
        quality_report: an HTML file that researchers may read, once it exists.

    At its start the app voids what an earlier process left unfinished.
    """
    page = page or PageSettings()
    threads = StoreThreads(cache_seconds=page.cache_seconds)
    passwords = StoreThreads(threads=1)
    broker = Broker()
    url = store.url.render_as_string(hide_password=False)
    live = LiveQuality(url, settings.quality, page.quality_seconds)
    generation = Generation(store, threads, responder, broker, page)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await threads.run(store.void_unfinished, "restarted: the server stopped while the answers came in")
        yield
        live.close()
        await generation.close()
        threads.close()
        passwords.close()

    app = FastAPI(
        title="prefloop",
        version=prefloop.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
    )
    templates = Jinja2Templates(HERE / "templates", context_processors=[_common])
    phases = Phases(store, threads)
    care = Care(store, threads)
    turns = Turns(store, threads, generation, phases, care, page)
    app.state.settings = settings
    app.state.services = Services(
        store=store,
        threads=threads,
        broker=broker,
        generation=generation,
        live_quality=live,
        turns=turns,
        phases=phases,
        care=care,
        checks=Checks(store, threads),
        page=page,
        return_hosts=settings.serve.return_hosts,
        arrivals=asyncio.Lock(),
        templates=templates,
        quality_report=quality_report,
        guesses=Guesses(),
        passwords=passwords,
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(accounts.router)
    app.include_router(researcher.router)
    app.include_router(study_forms.router)
    app.include_router(people.router)
    app.include_router(submissions.router)
    app.include_router(reviewing.router)
    app.include_router(research_api.router)
    app.include_router(people_api.router)
    app.include_router(review_api.router)
    app.include_router(worker_pages.router)
    app.include_router(care_api.router)
    app.include_router(worker_api.router)
    app.add_middleware(SecurityMiddleware)
    add_problem_handlers(app, templates)
    return app


def _common(request: Request) -> dict[str, Any]:
    """What every template may use."""
    return {"nonce": request.state.nonce, "version": prefloop.__version__}
