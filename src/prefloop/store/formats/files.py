"""Files in and out: JSON lines, plain or gzip, read strictly and written whole. Knows no format's fields."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from prefloop.errors import DataError, NotFoundError, UserError
from prefloop.schema import new_id

_GZIP_MAGIC = b"\x1f\x8b"


class Row(NamedTuple):
    """One row of a file: `where` names file and line for messages, `fields` is its JSON object."""

    where: str
    fields: dict[str, Any]


def check_exists(path: Path) -> None:
    """NotFoundError unless there is a file at `path`."""
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}; give the path of a data file.")


def json_rows(path: Path) -> Iterator[Row]:
    """The JSON objects of a file, one a line; blank lines are passed over.

    Errors:
        DataError: a line that is not UTF-8, not JSON or not an object, a broken gzip stream, or nothing at all.
    """
    line_number = 0
    is_empty = True
    try:
        with opened(path) as lines:
            for line_number, line in enumerate(lines, start=1):
                if line.strip():
                    is_empty = False
                    where = f"{path} line {line_number}"
                    yield Row(where, _parse_object(line, where))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read after line {line_number} ({error}); fetch it again, nothing of it was taken."
        ) from None
    if is_empty:
        raise DataError(f"{path} holds no rows; check that it is the right file and was fetched whole.")


def opened(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it is gzipped, whatever its name says."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if is_gzip else path.open("rb")  # type: ignore[return-value]


def _parse_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))  # some editors put a mark before the first letter
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason}); mend it, nothing of it was taken.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON ({error.msg} at column {error.colno}); mend it, nothing of it was taken."
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets thousands deep
        raise DataError(f"{where} holds a number or a nesting beyond all limits; mend it.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where} is {kind_of(value)} and not an object; mend it, nothing of it was taken.")
    return value


def field(row: Row, name: str, *kinds: type) -> Any:
    """A field's value of one of the given types, or DataError."""
    if name not in row.fields:
        raise DataError(f"{row.where} has no field {name!r}; mend it, nothing of it was taken.")
    value = row.fields[name]
    if isinstance(value, int | float) and not abs(value) < math.inf:  # Python reads NaN, which JSON does not have
        raise DataError(
            f"{row.where} field {name!r} is {value} and must be a finite number; mend it, nothing of it was taken."
        )
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(dict.fromkeys(_KINDS.get(kind, kind.__name__) for kind in kinds))
        raise DataError(
            f"{row.where} field {name!r} is {kind_of(value)} and must be {wanted}; mend it, nothing of it was taken."
        )
    return value


_KINDS = {str: "a text", list: "a list", dict: "an object", int: "a number", float: "a number", bool: "true or false"}


def kind_of(value: object) -> str:
    """What a JSON value is, for a message."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well, flushed to the disk.

    Errors:
        NotFoundError: the folder does not exist.
        UserError: it cannot be written to.
    """
    if not path.parent.is_dir():
        raise NotFoundError(f"The folder {path.parent} does not exist; create it or name another file.")
    temporary = path.with_name(f".{path.name}.{new_id()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from None
    finally:
        with suppress(OSError):  # a folder that refuses to write refuses this too
            temporary.unlink(missing_ok=True)


@contextmanager
def json_writer(path: Path) -> Iterator[IO[str]]:
    """A text file for JSON lines that appears whole or not at all; gzip where the name ends in .gz."""
    with replacing(path) as temporary:
        if path.suffix == ".gz":
            # No name and no time in the header: the same rows give the same bytes.
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
            ):
                yield file
        else:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                yield file


def write_line(file: IO[str], fields: dict[str, Any]) -> None:
    """One JSON object and a newline, letters as they are."""
    file.write(json.dumps(fields, ensure_ascii=False) + "\n")
