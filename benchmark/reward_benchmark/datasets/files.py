"""Reads decoded rows from local files, without judging them."""

import gzip
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet

from reward_benchmark.datasets.dataset import Rows, Source
from reward_benchmark.errors import DatasetError
from reward_benchmark.json_text import decoded

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

PARQUET_BATCH_ROWS = 256
"""Rows decoded at once: a few megabytes of text."""

_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*\{")
"""The start of one in JSON, maybe behind a byte order mark."""


def open_file(path: Path, *, split: str | None = None) -> Source:
    """The rows of one file: JSON lines (also gzipped), a JSON array, or Parquet.

    JSON lines and Parquet are read as a stream, a JSON array as a whole. A `.json` file may hold
    either: `Dataset.to_json` of Hugging Face's datasets writes JSON lines under that name.
    """
    if path.suffix == ".parquet":
        reader, unit = _parquet_rows, "row"
    elif path.suffix == ".json" and not _holds_lines(path):
        reader, unit = _json_array_rows, "row"
    else:
        reader, unit = _json_lines_rows, "line"
    location = str(path.resolve())

    def rows() -> Rows:
        try:
            yield from reader(path)
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise DatasetError(f"{location} cannot be read: {reason}") from error

    return Source(location, unit, rows, split)


def open_folder(folder: Path) -> tuple[Source, ...]:
    """The files in a folder and below, in the order of their names; a file's name is its split.

    `data/test-00000-of-00001.parquet`, as a copy of a hub repository has it, is the split `test`.

    Raises:
        DatasetError: there is none.
    """
    files = sorted(file for file in folder.rglob("*") if file.name.endswith(SUFFIXES))
    if not files:
        raise DatasetError(f"{folder.resolve()} holds no file {', '.join(SUFFIXES)}")
    return tuple(
        open_file(file, split=split_of(file.relative_to(folder).as_posix())) for file in files
    )


def split_of(name: str) -> str:
    """The split that a file of this name is."""
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")
    stem = name.removeprefix("data/").removesuffix(suffix)
    return re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", stem)


def _json_lines_rows(path: Path) -> Iterator[tuple[int, object]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield number, _decoded(line, f"{path.resolve()}, line {number}")


def _holds_lines(path: Path) -> bool:
    """Whether the first line that is not blank is an object by itself, or there is none."""
    try:
        with path.open("rb") as lines:
            first = next((line for line in lines if not line.isspace()), None)
        # An array may be one line of gigabytes, so only what may be an object is parsed.
        return first is None or (bool(_OBJECT.match(first)) and isinstance(decoded(first), dict))
    except (OSError, ValueError):
        return False  # the reader of arrays says why


def _json_array_rows(path: Path) -> Iterator[tuple[int, object]]:
    array = _decoded(path.read_bytes(), str(path.resolve()))
    if not isinstance(array, list):
        raise DatasetError(
            f"{path.resolve()} is neither a JSON array nor JSON lines: put its rows in an array, "
            "or each on a line of its own"
        )
    yield from enumerate(array, start=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        batches = (batch.to_pylist() for batch in file.iter_batches(PARQUET_BATCH_ROWS))
        yield from enumerate(chain.from_iterable(batches), start=1)


def _decoded(text: bytes, place: str) -> object:
    try:
        value: object = decoded(text)
    except ValueError as error:
        raise DatasetError(f"{place}: not JSON: {error}") from error
    return value
