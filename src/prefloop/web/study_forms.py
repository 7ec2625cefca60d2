"""Studies on a page, without a file: begin one, change its snapshots and what stands around its tasks. Knows templates.

What a form leaves out keeps its default when a study begins, and its present value when one is changed. The settings
themselves check what is written; their sentence is shown beside the form, and nothing typed is lost.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from prefloop.errors import DataError, PrefloopError, StateError
from prefloop.schema import Snapshot, SnapshotShare, Study
from prefloop.store import Researcher
from prefloop.store.study_settings import add_study
from prefloop.study import CheckSettings, StudyPhases, StudySettings
from prefloop.web.services import AsResearcher, Services, Shared

router = APIRouter(prefix="/researcher", include_in_schema=False)
_EMPTY_IS_NONE = ("tasks_per_worker", "most_per_worker", "most_per_hour")
_WHOLE = ("turns_per_conversation", "target_comparisons", "max_response_tokens", "overlap_judges", *_EMPTY_IS_NONE)
_NUMBERS = ("overlap", "sampling_temperature")
_CHECKS = ("gold_share", "repeat_share", "calibration_judges")
_PHASES = (
    *(*_EMPTY_IS_NONE, "consent", "consent_version", "instructions", "instructions_version"),
    *("completion_code", "completion_url", "pacing", "closing", "goal"),
)


@router.get("/new-study")
async def new_study(request: Request, researcher: AsResearcher, shared: Shared) -> Response:
    """An empty form."""
    return await _form(request, shared, researcher, None, {})


@router.post("/new-study")
async def begin_study(request: Request, researcher: AsResearcher, shared: Shared) -> Response:
    """Begins a study, or says what cannot be."""
    typed = await _typed(request)
    values = {name: value for name, value in typed.items() if not name.startswith("weight:") and value != ""}
    phases: dict[str, Any] = {name: values.pop(name) for name in _PHASES if name in values}
    try:
        weights = _weights(typed)
        chosen = [
            (snapshot.name, weights[snapshot.id]) for snapshot in await _policies(shared) if snapshot.id in weights
        ]
        names, shares = [name for name, _ in chosen], [weight for _, weight in chosen]
        numbers = {name: _number(values.pop(name), name) for name in (*_WHOLE, *_NUMBERS) if name in values}
        phases = {name: _number(value, name) if name in _WHOLE else value for name, value in phases.items()}
        phases["checks"] = {name: _number(values.pop(name), name) for name in _CHECKS if name in values}
        settings = StudySettings(
            **{**values, **numbers, "snapshots": names, "weights": shares, "phases": StudyPhases(**phases)}
        )
        study = await shared.threads.run(add_study, shared.store, settings)
    except (ValidationError, PrefloopError) as error:
        return await _form(request, shared, researcher, None, typed, problem=_sentence(error))
    return RedirectResponse(f"/researcher?study={study.id}", 303)


@router.get("/studies/{study_id}/edit")
async def edit_study(study_id: str, request: Request, researcher: AsResearcher, shared: Shared) -> Response:
    """What of a running study may be changed."""
    study = await shared.threads.run(shared.store.study, study_id)
    return await _form(request, shared, researcher, study, await _present(shared, study))


@router.post("/studies/{study_id}/edit")
async def change_study(study_id: str, request: Request, researcher: AsResearcher, shared: Shared) -> Response:
    """Sets weights and phases; each setting is kept as a revision of its own."""
    run, store = shared.threads.run, shared.store
    study = await run(store.study, study_id)
    typed = await _typed(request)
    try:
        shares = [SnapshotShare(snapshot_id=id, weight=weight) for id, weight in _weights(typed).items()]
        if study.compare == "distinct" and len(shares) < 2:
            raise StateError(f"This study always shows two different snapshots and {len(shares)} has a weight; give 2.")
        present = (await run(store.study_phases, study_id)).model_dump()
        written = {name: typed[name] for name in _PHASES if name in typed}
        limits = {name: written.pop(name, "") for name in _EMPTY_IS_NONE}
        numbers = {name: _number(value, name) if value else None for name, value in limits.items()}
        checks = {name: _number(typed[name], name) for name in _CHECKS if typed.get(name)}
        changed = {**written, **numbers, "checks": {**present["checks"], **checks}}
        phases = StudyPhases(**{**present, **changed})
        if phases != StudyPhases(**present):
            await run(store.set_study_phases, study_id, phases)
        if tuple(shares) != study.snapshots:
            await run(store.set_study_snapshots, study_id, shares)
    except (ValidationError, PrefloopError) as error:
        return await _form(request, shared, researcher, study, typed, problem=_sentence(error))
    shared.threads.forget()
    return RedirectResponse(f"/researcher?study={study_id}", 303)


async def _typed(request: Request) -> dict[str, str]:
    return {name: str(value).replace("\r\n", "\n") for name, value in (await request.form()).items()}


async def _policies(shared: Services) -> list[Snapshot]:
    snapshots = await shared.threads.run(shared.store.snapshots, "policy")
    return [snapshot for snapshot in snapshots if snapshot.state != "retired"]


async def _present(shared: Services, study: Study) -> dict[str, Any]:
    phases = await shared.threads.run(shared.store.study_phases, study.id)
    weights = {f"weight:{share.snapshot_id}": f"{share.weight:g}" for share in study.snapshots}
    values = {name: value for name, value in phases.model_dump(mode="json").items() if name in _PHASES}
    checks = {name: f"{value:g}" for name, value in phases.checks.model_dump().items() if name in _CHECKS}
    return {**values, **checks, **weights}


async def _form(
    request: Request,
    shared: Services,
    researcher: Researcher,
    study: Study | None,
    typed: dict[str, Any],
    problem: str | None = None,
) -> Response:
    facts = {
        "me": researcher,
        "tab": "studies",
        "study": study,
        "typed": typed,
        "problem": problem,
        "snapshots": await _policies(shared),
        "fields": StudySettings.model_fields,
        "phases": StudyPhases.model_fields,
        "checks": CheckSettings.model_fields,
    }
    return shared.templates.TemplateResponse(request, "study_form.html", facts, status_code=422 if problem else 200)


def _weights(typed: dict[str, str]) -> dict[str, float]:
    """Snapshots with a weight above 0, by id."""
    found = {name.removeprefix("weight:"): value for name, value in typed.items() if name.startswith("weight:")}
    numbers = {id: _number(value, "a weight") for id, value in found.items() if value.strip()}
    return {id: float(number) for id, number in numbers.items() if number != 0}


def _number(value: str, what: str) -> float | int:
    try:
        return int(value) if what in _WHOLE else float(value.replace(",", "."))
    except ValueError:
        raise DataError(f"{what.replace('_', ' ')} is {value!r} and must be a number.") from None


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])).replace('_', ' ')}: {fault['msg'].removeprefix('Value error, ')}."
