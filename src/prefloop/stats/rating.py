"""Bradley-Terry strengths and Elo ratings from pairwise outcomes. Knows names and outcomes, not snapshots or stores.

Maximum likelihood as in the paper's B.5 (natural strengths r, P(i beats j) = 1/(1+exp(r_j - r_i)), Elo = 400/ln 10 * r
= 174 r), ties counted as half a win each way. Intervals resample whole clusters; a resample is a table of wins, the
sum of its clusters' tables, so a thousand refits cost little.

A maximum exists only where every player can be reached from every other along wins (strong connection). Where the
data are separable (somebody never lost, say), half a win each way is added to every pair that was compared, and the
result says so. Players that no chain of comparisons ties to the anchor get no rating at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse
from scipy.sparse import csgraph

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.intervals import (
    RESAMPLES,
    UNBOUNDED,
    Floats,
    Ints,
    Labels,
    label_codes,
    observation_codes,
    percentiles,
    resample_counts,
    win_rate,
)

ELO_PER_NAT = 400 / np.log(10)
"""173.7 Elo points are one unit of natural strength, which is one unit of preference-model score (paper 2.4)."""

Flags = npt.NDArray[np.bool_]

_PSEUDO_WINS = 0.5
_BATCH_CELLS = 2_000_000  # resamples x clusters (or x players squared) held at once


class PairRecord(Noun):
    """What is known of two players directly: the first one's win rate against the second."""

    first: str
    second: str
    win_rate: Interval


class EloTable(Noun):
    """Ratings against the anchor, which is 0 by definition, best first."""

    anchor: str
    ratings: dict[str, Interval] = Field(description="Elo points; n counts the comparisons of that player")
    pairs: tuple[PairRecord, ...]
    not_comparable: tuple[str, ...] = Field(description="no chain of comparisons leads from these to the anchor")
    is_regularised: bool = Field(description="the data were separable: half a win each way was added to each pair")
    regularised_resamples: float = Field(description="share of bootstrap samples in which that was needed")
    notes: tuple[str, ...] = Field(description="sentences for a reader: what is missing or was added, and why")


class _Fit(NamedTuple):
    strengths: Floats  # (table, player), natural units, player 0 is 0
    is_regularised: Flags  # (table,)


def elo(
    first: Sequence[str],
    second: Sequence[str],
    outcomes: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    anchor: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> EloTable:
    """Elo of every player against `anchor`, from outcomes of `first` (1 won, 0.5 tie, 0 lost).

    Leave comparisons with the weakest grades out before (paper B.5).

    Errors:
        DataError: nothing to rate, the anchor never played, a player against itself, outcomes of another kind.
    """
    if not len(first) == len(second) == len(outcomes):
        raise DataError(
            f"{len(first)} first, {len(second)} second players and {len(outcomes)} outcomes do not pair up."
        )
    overall = win_rate(outcomes, clusters, resamples=1)  # checks the outcomes and the labels
    selves = [name for name, other in zip(first, second, strict=True) if name == other]
    if selves:
        raise DataError(f"{selves[0]!r} was compared with itself in {len(selves)} comparisons; leave those out.")
    codes, labels = label_codes([*first, *second])
    names = [str(label) for label in labels]
    if anchor not in names:
        raise DataError(
            f"The anchor {anchor!r} is in none of {overall.n} comparisons; name one of {sorted(names)[:5]}."
        )
    left, right = codes[: len(first)], codes[len(first) :]
    won = np.asarray(outcomes, dtype=np.float64)

    component = _components(left, right, len(names))
    is_rated = component == component[names.index(anchor)]
    order = [names.index(anchor), *(i for i, name in enumerate(names) if is_rated[i] and name != anchor)]
    place = np.full(len(names), -1)
    place[order] = np.arange(len(order))
    is_used = is_rated[left]
    groups = observation_codes(clusters, len(won))
    group_codes, _ = label_codes(groups[is_used])
    per_cluster = _cluster_tables(place[left[is_used]], place[right[is_used]], won[is_used], group_codes, len(order))

    total = np.asarray(per_cluster.sum(axis=0), dtype=np.float64).reshape(1, len(order), len(order))
    is_compared = (total[0] + total[0].T) > 0
    point = _fit(total, is_compared)
    cluster_count = per_cluster.shape[0]
    draws = _bootstrap(per_cluster, is_compared, point.strengths, resamples, seed) if cluster_count > 1 else None
    played = (total[0] + total[0].T).sum(axis=1)
    ratings = {}
    for i, name in enumerate(names[j] for j in order):
        value = float(point.strengths[0, i] * ELO_PER_NAT)
        low, high = UNBOUNDED if draws is None else percentiles(draws.strengths[:, i] * ELO_PER_NAT, cluster_count)
        low, high = (0.0, 0.0) if i == 0 else (low, high)
        ratings[name] = Interval(value=value, low=low, high=high, n=round(played[i]), clusters=cluster_count)
    away = tuple(sorted(name for i, name in enumerate(names) if not is_rated[i]))
    regularised = bool(point.is_regularised[0])
    redone = 0.0 if draws is None else float(draws.is_regularised.mean())
    return EloTable(
        anchor=anchor,
        ratings=dict(sorted(ratings.items(), key=lambda item: -item[1].value)),
        pairs=_pair_records(first, second, won, groups, seed),
        not_comparable=away,
        is_regularised=regularised,
        regularised_resamples=redone,
        notes=_notes(anchor, away, regularised, redone, cluster_count),
    )


def bradley_terry(wins: Floats) -> Floats:
    """Natural strengths that maximise the likelihood of a table of wins; the first player is 0.

    Args:
        wins: (player, player), how often the row's player beat the column's; ties as half a win each way.

    Errors:
        DataError: the table has no maximum (see the module's docstring).
    """
    table = np.asarray(wins, dtype=np.float64)
    if not _has_maximum(table):
        raise DataError("The table of wins is separable: some players never lose to the rest; add comparisons.")
    strengths: Floats = _maximise(table[None], np.zeros((1, len(table))))[0]
    return strengths


def expected_win_rate(elo_difference: float) -> float:
    """Share of wins that a lead of `elo_difference` points stands for: 1/(1+10^(-d/400))."""
    return float(1 / (1 + 10 ** (-elo_difference / 400)))


def _components(left: Ints, right: Ints, players: int) -> Ints:
    graph = sparse.coo_array((np.ones(len(left)), (left, right)), shape=(players, players))
    _, component = csgraph.connected_components(graph, directed=False)
    return np.asarray(component, dtype=np.int64)


def _cluster_tables(left: Ints, right: Ints, won: Floats, groups: Ints, players: int) -> Any:
    """Wins of each cluster as a sparse row: (cluster, player x player)."""
    cells = np.concatenate([left * players + right, right * players + left])
    rows = np.concatenate([groups, groups])
    values = np.concatenate([won, 1 - won])
    shape = (int(groups.max()) + 1, players * players)
    return sparse.coo_array((values, (rows, cells)), shape=shape).tocsr()


def _bootstrap(per_cluster: Any, is_compared: Flags, start: Floats, resamples: int, seed: int) -> _Fit:
    generator = np.random.default_rng(seed)
    clusters, players = per_cluster.shape[0], len(is_compared)
    size = max(1, _BATCH_CELLS // max(clusters, players * players))
    fits = []
    for done in range(0, resamples, size):
        counts = resample_counts(clusters, min(size, resamples - done), generator).astype(np.float64)
        tables = np.asarray((per_cluster.T @ counts.T).T).reshape(-1, players, players)
        fits.append(_fit(tables, is_compared, start))
    return _Fit(np.concatenate([f.strengths for f in fits]), np.concatenate([f.is_regularised for f in fits]))


def _fit(tables: Floats, is_compared: Flags, start: Floats | None = None) -> _Fit:
    is_separable = np.array([not _has_maximum(table) for table in tables])
    tables = tables + _PSEUDO_WINS * is_separable[:, None, None] * is_compared
    begin = np.zeros(tables.shape[:2]) if start is None else np.broadcast_to(start, tables.shape[:2])
    return _Fit(_maximise(tables, begin), is_separable)


def _has_maximum(table: Floats) -> bool:
    parts, _ = csgraph.connected_components(sparse.csr_array(table > 0), directed=True, connection="strong")
    return int(parts) == 1


def _maximise(tables: Floats, start: Floats) -> Floats:
    """Newton's method on all tables at once, player 0 held at 0; a step that lowers the likelihood is halved."""
    strengths = np.array(start, dtype=np.float64)
    if strengths.shape[1] == 1:
        return strengths
    games = tables + tables.transpose(0, 2, 1)
    best = _log_likelihood(tables, strengths)
    for _ in range(100):
        chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))  # (table, i, j): i beats j
        gradient = (tables - games * chance).sum(axis=2)
        weight = games * chance * (1 - chance)
        curvature = -weight
        diagonal = np.arange(strengths.shape[1])
        curvature[:, diagonal, diagonal] += weight.sum(axis=2)
        step = np.zeros_like(strengths)
        step[:, 1:] = np.linalg.solve(curvature[:, 1:, 1:], gradient[:, 1:, None])[..., 0]
        scale = np.ones(len(tables))
        for _ in range(30):
            trial = strengths + scale[:, None] * step
            likelihood = _log_likelihood(tables, trial)
            is_worse = likelihood < best - 1e-9 * np.abs(best)
            if not is_worse.any():
                break
            scale[is_worse] /= 2
        strengths, best = trial, likelihood
        if np.abs(step).max() < 1e-9:
            return strengths
    raise DataError(
        "Bradley-Terry did not settle in 100 steps; the comparisons are nearly separable, add more of them."
    )


def _log_likelihood(tables: Floats, strengths: Floats) -> Floats:
    lead = strengths[:, :, None] - strengths[:, None, :]
    return np.asarray(-(tables * np.logaddexp(0, -lead)).sum(axis=(1, 2)), dtype=np.float64)


def _pair_records(
    first: Sequence[str], second: Sequence[str], won: Floats, groups: Ints, seed: int
) -> tuple[PairRecord, ...]:
    rows: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(zip(first, second, strict=True)):
        a, b = sorted(pair)
        rows.setdefault((a, b), []).append(i)
    records = []
    for (a, b), members in sorted(rows.items()):
        outcomes = [won[i] if first[i] == a else 1 - won[i] for i in members]
        records.append(PairRecord(first=a, second=b, win_rate=win_rate(outcomes, groups[members], seed=seed)))
    return tuple(records)


def _notes(anchor: str, away: tuple[str, ...], regularised: bool, redone: float, clusters: int) -> tuple[str, ...]:
    notes = []
    if away:
        notes.append(f"No chain of comparisons ties {', '.join(away)} to {anchor}, so they have no rating.")
    if regularised:
        notes.append(
            "Somebody never lost (or never won), so half a win each way was added to each pair; "
            "the ratings are lower bounds in size."
        )
    elif redone > 0.01:
        notes.append(f"{redone:.0%} of the bootstrap samples needed half a win added to each pair; collect more.")
    if clusters < 2:
        notes.append("All comparisons come from one cluster, so no interval can be given.")
    return tuple(notes)
