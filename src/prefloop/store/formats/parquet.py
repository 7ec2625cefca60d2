"""Parquet: TRL's preference columns, readable by `datasets` as they are, with provenance in further columns.

Needs the optional package pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from prefloop.errors import DataError, UnavailableError
from prefloop.schema import PreferencePair
from prefloop.store.formats import trl
from prefloop.store.formats.files import Row, replacing
from prefloop.store.imports import ImportedPair, Unusable
from prefloop.store.rows import chunks

_PAIR_COLUMNS = ("prompt", "chosen", "rejected")
_PROVENANCE = tuple(name for name in PreferencePair.model_fields if name not in ("context", "chosen", "rejected"))
_INTEGERS = ("turn", "grade")
BATCH_ROWS = 1000


def read(path: Path) -> Iterator[ImportedPair | Unusable]:
    """The rows of a file; columns other than prompt, chosen and rejected are passed over.

    Errors:
        UnavailableError: pyarrow is not installed.
        DataError: not a Parquet file, a missing column, a wrong type.
    """
    pyarrow, parquet = _packages()
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in _PAIR_COLUMNS if name in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield trl.pair_from_row(Row(f"{path} row {number}", fields))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); export it anew.") from None


def write(path: Path, pairs: Iterable[PreferencePair]) -> int:
    """Writes pairs; how many. The file appears whole or not at all."""
    pyarrow, parquet = _packages()
    text, number = pyarrow.string(), pyarrow.int64()
    message = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    schema = pyarrow.schema(
        [(name, message) for name in _PAIR_COLUMNS]
        + [(name, number if name in _INTEGERS else text) for name in _PROVENANCE]
    )
    written = 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for chunk in chunks(pairs, BATCH_ROWS):
            writer.write_table(pyarrow.Table.from_pylist([_row(pair) for pair in chunk], schema=schema))
            written += len(chunk)
    return written


def _row(pair: PreferencePair) -> dict[str, Any]:
    return {**trl.preference_row(pair), **pair.model_dump(mode="json", include=set(_PROVENANCE))}


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UnavailableError(
            "Parquet needs the package pyarrow, which is not installed; run pip install 'prefloop[parquet]'."
        ) from None
    return pyarrow, pyarrow.parquet
