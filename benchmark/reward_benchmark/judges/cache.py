"""Answers that were paid for once, on disk, for any run that asks the same again."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from reward_benchmark.chat import Answer
from reward_benchmark.errors import BenchmarkError
from reward_benchmark.json_text import decoded

FORMAT = 1
"""Version of the files."""

_ANSWER = TypeAdapter(Answer)

Request = Mapping[str, Any]
"""What determines an answer, as JSON: the model, the messages, and the sampling with its seed. Not
the address: the same model may have moved."""


def request_key(request: Request) -> str:
    """What a request is called: a hash of its content."""
    text = json.dumps({"format": FORMAT, **request}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """A folder with one small file an answer, `ab/abcd….json`, named by the hash of its request.

    Files are written whole or not at all, so that runs may share the folder and be killed. To have
    a question asked again, delete its file.

    Args:
        path: made where it is missing.

    Raises:
        BenchmarkError: the path is no folder that can be written to.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchmarkError(
                f"the cache {path} cannot be used: {error.strerror}; name a folder"
            ) from error
        self._path = path

    def get(self, request: Request) -> Answer | None:
        """The answer to a request, if it was kept.

        Raises:
            BenchmarkError: there is a file, but not one of this cache; it stays as it is.
        """
        file = self._file(request)
        try:
            kept = decoded(file.read_bytes())
            if kept["format"] != FORMAT or kept["request"] != json.loads(json.dumps(request)):
                raise ValueError("it is of another request")
            return _ANSWER.validate_python(kept["answer"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BenchmarkError(
                f"{file} cannot be read as an answer of the cache ({type(error).__name__}): "
                "delete it to have the judge asked again, or choose another --cache"
            ) from error

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer, from then on safe from a kill."""
        file = self._file(request)
        document = {"format": FORMAT, "request": request, "answer": asdict(answer)}
        file.parent.mkdir(exist_ok=True)
        # A name of its own, for another process may be writing the same answer.
        unfinished = file.with_name(f".{uuid.uuid4()}.tmp")
        unfinished.write_bytes(json.dumps(document, indent=1).encode() + b"\n")
        unfinished.replace(file)

    def _file(self, request: Request) -> Path:
        key = request_key(request)
        return self._path / key[:2] / f"{key}.json"
