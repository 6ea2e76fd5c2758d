"""Local files: one content in every format, and errors that say where."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from reward_benchmark.datasets import open_dataset
from reward_benchmark.errors import DatasetError

ROWS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"p {i} é\u2028"}],
        "chosen": "c",
        "rejected": "r\x00\n",
        "subset": "s",
        "id": i,
    }
    for i in range(600)
]


GOOD = b'{"prompt": "p", "chosen": "c", "rejected": "r"}'


def write_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), "utf-8")


def write_gzip(path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n\n" for row in ROWS)


def write_array(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def write_pretty(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2))


def write_as_datasets_does(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_json(path)


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".jsonl", write_lines),
        (".jsonl.gz", write_gzip),
        (".json", write_array),
        (".json", write_pretty),
        (".json", write_lines),
        (".json", write_as_datasets_does),
        (".parquet", write_parquet),
    ],
)
def test_every_format_holds_the_same(tmp_path: Path, suffix: str, write: Callable[[Path], None]):
    reference = tmp_path / "reference.jsonl"
    write_lines(reference)
    path = tmp_path / f"pairs{suffix}"
    write(path)
    dataset = open_dataset(str(path))
    assert dataset.name == path.name
    assert [pair.id for pair in dataset] == list(range(600))
    assert dataset.scan() == open_dataset(str(reference)).scan()


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_lines_are_read_lazily(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text(json.dumps(ROWS[0]) + "\nnot JSON\n")
    assert next(iter(open_dataset(str(path)))).id == 0


def test_lines_are_the_same_whatever_the_file_is_called(tmp_path: Path):
    """Ids that are line numbers included, where some lines are blank."""
    rows = [{name: row[name] for name in row if name != "id"} for row in ROWS[:5]]
    text = "\n \n".join(map(json.dumps, rows))
    for start in ("", "\n\n", " "):
        contents = []
        for name in ("a.jsonl", "a.json"):
            (tmp_path / name).write_text(start + text)
            dataset = open_dataset(str(tmp_path / name))
            contents.append(([group.id for group in dataset], dataset.scan().sha256))
        first = 1 + start.count("\n")
        assert contents[0] == contents[1]
        assert contents[1][0] == [first, first + 2, first + 4, first + 6, first + 8]


@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\t "])
def test_one_row_on_one_line_is_a_file(tmp_path: Path, start: str, end: str):
    path = tmp_path / "a.json"
    path.write_text(start + json.dumps(ROWS[3]) + end, "utf-8", newline="")
    [group] = open_dataset(str(path))
    assert (group.id, group.prompt) == (3, ROWS[3]["prompt"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_an_array_may_be_in_any_encoding_of_unicode(tmp_path: Path, encoding: str):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS[:3], indent=1), encoding)
    assert [group.id for group in open_dataset(str(path))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "p"\n', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b'\n\n{"prompt": "p"}\n', r"line 3: columns 'chosen', 'rejected' are missing"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b"\n", "has no rows"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl.gz", b"plain", "cannot be read: Not a gzipped file"),
        # Without the time, which would give every process that collects tests another name here.
        (
            "a.jsonl.gz",
            gzip.compress(b"{}" * 999, mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
        (
            "a.json",
            b'{"prompt": "p"}',
            r"a\.json, line 1: columns 'chosen', 'rejected' are missing",
        ),
        ("a.json", GOOD + b'\n\n{"prompt": "p"}', r"a\.json, line 3: columns 'chosen', 'rej"),
        ("a.json", GOOD + b'\n{"prompt": "p"', r"a\.json, line 2: not JSON: Expecting ','"),
        ("a.json", GOOD + b"\n[1]", "line 2: it is not an object with columns"),
        ("a.json", GOOD + GOOD, r"a\.json: not JSON: Extra data"),
        ("a.json", b'{\n"prompt": "p"\n}', "neither a JSON array nor JSON lines: put its rows in"),
        ("a.json", b'"text"', "neither a JSON array nor JSON lines"),
        ("a.json", b"[1]", "row 1: it is not an object with columns, but 1"),
        ("a.json", b"[" + GOOD + b",", r"a\.json: not JSON: Expecting value"),
        ("a.json", b"[" + GOOD + b"\n" + GOOD + b"]", r"not JSON: Expecting ',' delimiter: line 2"),
        ("a.json", b"[" + GOOD + b',\n{"prompt', "not JSON: Unterminated string .*: line 2"),
        ("a.json", b'{"prompt": "\xff"}\n', r"a\.json: not JSON: it is not text in UTF-8"),
        ("a.json", b'{"a":' * 100_000, r"a\.json: not JSON"),
        ("a.json", b"", r"a\.json has no rows"),
        ("a.json", b" \n\n", r"a\.json has no rows"),
        ("a.json", b"[]", r"a\.json has no rows"),
        ("a.parquet", b"plain", "cannot be read"),
    ],
)
def test_a_bad_file_is_an_error_that_says_where(
    tmp_path: Path, name: str, content: bytes, message: str
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(str(path)).scan()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, suffix: str):
    with pytest.raises(DatasetError, match="No such file"):
        open_dataset(str(tmp_path / f"none{suffix}")).scan()


def test_a_pair_that_comes_twice_is_an_error(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps(ROWS[4]) + "\n") * 2)
    with pytest.raises(DatasetError, match=r"line 2: id 4 of subset 's' was there before"):
        open_dataset(str(path)).scan()
