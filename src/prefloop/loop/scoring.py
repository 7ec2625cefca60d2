"""`prefloop quality --pm SNAPSHOT`: a preference model scores the judged replies, as rows of the store.

The quality report reads those rows and loads no model. What is scored stays scored, so an interrupted command goes on
where it was. Knows no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tqdm import tqdm

from prefloop.errors import DataError, ModelError
from prefloop.loop.snapshots import model_path
from prefloop.models.devices import device_named
from prefloop.models.preference import PreferenceModel
from prefloop.schema import ComparisonState, Message, PreferencePair, Score
from prefloop.store import ComparisonRecord, Store
from prefloop.workspace import Workspace

__all__ = ["score_comparisons"]

_AT_ONCE = 256


def score_comparisons(workspace: Workspace, store: Store, name: str, device: str = "auto") -> int:
    """Scores both replies of every judged comparison that has no score by this PM yet; how many replies that were.

    Comparisons whose replies do not fit the PM's window have no score.

    Errors:
        NotFoundError: no snapshot of that name.
        ModelError: it is no preference model.
    """
    snapshot = store.snapshot(name)
    if snapshot.kind != "preference_model":
        raise ModelError(f"{name} is a {snapshot.kind} and gives no scores; name a preference model.")
    model = PreferenceModel.load(model_path(workspace, snapshot)).to(device_named(device))
    known = store.scores(snapshot.id)
    added = 0
    coming = iter(tqdm(_unscored(store, known), desc=f"score by {name}", unit="comparison"))
    while some := list(islice(coming, _AT_ONCE)):
        encoded, ids = [], []
        for record in some:
            comparison = record.comparison
            pair = PreferencePair(
                context=tuple(Message(role=turn.role, text=turn.text) for turn in record.path),
                chosen=comparison.response_a.text,
                rejected=comparison.response_b.text,
            )
            try:
                both = model.encode_pair(pair)
            except DataError:
                continue
            encoded += [both.chosen, both.rejected]
            ids += [comparison.response_a.id, comparison.response_b.id]
        values = model.score_ids(encoded)
        added += store.add_scores(
            Score(response_id=id, preference_model_id=snapshot.id, value=value)
            for id, value in zip(ids, values, strict=True)
        )
    return added


def _unscored(store: Store, known: dict[str, float]) -> Iterator[ComparisonRecord]:
    for record in store.records(state=ComparisonState.JUDGED):
        sides = record.comparison.response_a, record.comparison.response_b
        if sides[0].text != sides[1].text and any(side.id not in known for side in sides):
            yield record
