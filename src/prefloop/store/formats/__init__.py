"""Import and export: which format is read and written by which module. Knows no format's fields.

hh-rlhf   JSON lines of two texts, as published with the paper; a round trip gives back the same bytes
trl       preference rows with conversations, as TRL reads them
jsonl     the project's own, with full provenance
parquet   TRL's columns and provenance columns
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from prefloop.errors import DataError
from prefloop.schema import Mode, Tranche
from prefloop.store import ExportReport, ImportReport, Store
from prefloop.store.formats import hh_rlhf, own, parquet, trl
from prefloop.store.formats.comparisons import ComparisonFile, read_comparisons
from prefloop.store.formats.files import check_exists, json_writer, write_line
from prefloop.store.formats.ranked import RankedQuestion, ranked_pairs, read_ranked
from prefloop.store.imports import Unusable

__all__ = [
    "FORMATS",
    "ComparisonFile",
    "Format",
    "RankedQuestion",
    "export_file",
    "import_file",
    "ranked_pairs",
    "read_comparisons",
    "read_ranked",
]

Format = Literal["hh-rlhf", "trl", "jsonl", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)

_PAIR_READERS = {"hh-rlhf": hh_rlhf.read, "trl": trl.read, "parquet": parquet.read}


def import_file(
    store: Store,
    format: Format | str,
    path: Path | str,
    tranche: Tranche | str = Tranche.BASE,
    mode: Mode | str = Mode.HELPFUL,
) -> ImportReport:
    """Takes a file in, whole or not at all.

    Args:
        tranche, mode: what the rows of a pair format are; an own `jsonl` file says so itself.

    Errors:
        NotFoundError: no such file.
        DataError: an unknown format, tranche or mode; a line that cannot be parsed or has wrong types (the message
            names file, line and field).
    """
    _check(format)
    file = Path(path)
    check_exists(file)
    origin = f"{format}:{file.name}"
    if format == "jsonl":
        return store.import_records(partial(own.read, file), origin)
    return store.import_pairs(partial(_PAIR_READERS[format], file), origin, _mode(mode), _tranche(tranche))


def export_file(
    store: Store,
    format: Format | str,
    path: Path | str,
    mode: Mode | str | None = None,
    tranche: Tranche | str | None = None,
    drop_weakest: bool = True,
) -> ExportReport:
    """Writes the store's comparisons, of one mode or tranche where given, in order of creation.

    A file appears whole or not at all; JSON lines are gzipped where the name ends in .gz.

    Args:
        drop_weakest: leaves out judgments of grade 4 and 5, as training does; an own `jsonl` file holds everything.

    Errors:
        NotFoundError: the folder does not exist.
        DataError: an unknown format, tranche or mode.
    """
    _check(format)
    file = Path(path)
    records = store.records(
        mode=None if mode is None else _mode(mode), tranche=None if tranche is None else _tranche(tranche)
    )
    rows: Iterable[dict[str, Any] | Unusable]
    if format == "parquet":
        report = ExportReport(exported=parquet.write(file, trl.pairs_of(records, drop_weakest)))
    else:
        if format == "jsonl":
            rows = own.rows(store, records)
        else:
            rows = (hh_rlhf if format == "hh-rlhf" else trl).rows(records, drop_weakest)
        report = _write_lines(file, rows)
    store.log(
        "export", "file.exported", f"{format}:{file.name}", {"mode": mode, "tranche": tranche, **report.model_dump()}
    )
    return report


def _write_lines(file: Path, rows: Iterable[dict[str, Any] | Unusable]) -> ExportReport:
    exported, skipped = 0, Counter[str]()
    with json_writer(file) as lines:
        for row in rows:
            if isinstance(row, Unusable):
                skipped[row.reason] += 1
            else:
                write_line(lines, row)
                exported += row.get("kind", "comparison") == "comparison" and "format" not in row
    return ExportReport(exported=exported, skipped=dict(skipped))


def _check(format: str) -> None:
    if format not in FORMATS:
        raise DataError(f"The format {format!r} is not known; use one of {', '.join(FORMATS)}.")


def _mode(name: str) -> Mode:
    if name not in list(Mode):
        raise DataError(f"The mode {name!r} is not known; use one of {', '.join(Mode)}.")
    return Mode(name)


def _tranche(name: str) -> Tranche:
    if name not in list(Tranche):
        raise DataError(f"The tranche {name!r} is not known; use one of {', '.join(Tranche)}.")
    return Tranche(name)
