"""From a researcher's study settings to a study in the store. Knows nothing of TOML files nor of pages."""

from __future__ import annotations

from prefloop.errors import ConfigError, NotFoundError
from prefloop.schema import SamplingSettings, Snapshot, SnapshotShare, Study
from prefloop.store import Store
from prefloop.store.rows import nearest
from prefloop.study import StudySettings


def add_study(store: Store, settings: StudySettings) -> Study:
    """A new study over the named snapshots (or all deployed policies), with its phases.

    Errors:
        ConfigError: a study of that name is there, or too few snapshots for `compare`.
        NotFoundError: a snapshot that is not there; nothing is deployed.
    """
    if settings.name in [known.name for known in store.studies()]:
        raise ConfigError(f"A study named {settings.name!r} exists already; choose another name.")
    snapshots = _snapshots(store, settings)
    if settings.compare == "distinct" and len(snapshots) < 2:
        raise ConfigError(
            f"compare = 'distinct' needs 2 snapshots and the study has {len(snapshots)}; name another, or use 'any'."
        )
    weights = settings.weights or (1.0,) * len(snapshots)
    study = Study(
        name=settings.name,
        mode=settings.mode,
        tranche=settings.tranche,
        snapshots=tuple(
            SnapshotShare(snapshot_id=snapshot.id, weight=weight)
            for snapshot, weight in zip(snapshots, weights, strict=True)
        ),
        compare=settings.compare,
        continue_with=settings.continue_with,
        overlap=settings.overlap,
        overlap_judges=settings.overlap_judges,
        sampling=SamplingSettings(
            temperature=settings.sampling_temperature, max_response_tokens=settings.max_response_tokens
        ),
        turns_per_conversation=settings.turns_per_conversation,
        target_comparisons=settings.target_comparisons,
    )
    store.add_study(study)
    store.set_study_phases(study.id, settings.phases)
    return study


def find_study(store: Store, id_or_name: str) -> Study:
    """The newest study with an id or a name; NotFoundError names the nearest."""
    studies = store.studies()
    for study in reversed(studies):
        if id_or_name in (study.id, study.name):
            return study
    raise NotFoundError(f"There is no study {id_or_name!r}; {nearest(id_or_name, [study.name for study in studies])}")


def _snapshots(store: Store, settings: StudySettings) -> list[Snapshot]:
    if settings.snapshots:
        return [store.snapshot(name) for name in settings.snapshots]
    deployed = store.snapshots(kind="policy", state="deployed")
    if not deployed:
        raise NotFoundError("No snapshot is deployed; deploy one with: prefloop snapshots deploy NAME")
    return deployed
