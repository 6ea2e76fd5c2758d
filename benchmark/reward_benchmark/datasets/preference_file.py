"""Reads rows of preference data from a local file, without judging them."""

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet

from reward_benchmark.datasets.dataset import Dataset, Rows
from reward_benchmark.errors import DatasetError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

PARQUET_BATCH_ROWS = 256
"""Rows decoded at once: a few megabytes of text."""


def open_preference_file(path: Path, *, name: str | None = None) -> Dataset:
    """A dataset in one file: JSON lines (also gzipped), a JSON array, or Parquet.

    JSON lines and Parquet are read as a stream, a JSON array as a whole.
    """
    reader, unit = {
        ".parquet": (_parquet_rows, "row"),
        ".json": (_json_array_rows, "row"),
    }.get(path.suffix, (_json_lines_rows, "line"))
    location = str(path.resolve())

    def rows() -> Rows:
        try:
            yield from reader(path)
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise DatasetError(f"{location} cannot be read: {reason}") from error

    return Dataset(name or path.name, location, unit, rows)


def _json_lines_rows(path: Path) -> Iterator[tuple[int, object]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield number, _decoded(line, f"{path.resolve()}, line {number}")


def _json_array_rows(path: Path) -> Iterator[tuple[int, object]]:
    array = _decoded(path.read_bytes(), str(path.resolve()))
    if not isinstance(array, list):
        raise DatasetError(f"{path.resolve()} is not a JSON array: one object a line is .jsonl")
    yield from enumerate(array, start=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        batches = (batch.to_pylist() for batch in file.iter_batches(PARQUET_BATCH_ROWS))
        yield from enumerate(chain.from_iterable(batches), start=1)


def _decoded(text: bytes, place: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{place}: not JSON: {error}") from error
    return value
