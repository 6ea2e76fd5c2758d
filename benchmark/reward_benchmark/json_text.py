"""Reads JSON that anybody may have written."""

import json
from typing import Any

from pydantic import ValidationError


def decoded(text: bytes | str, *, finite: bool = False) -> Any:
    """The value that a text in JSON is.

    Args:
        finite: refuse `NaN` and infinities, which are not JSON, though Python writes them so.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse if finite else None)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 ({error}): save it as that") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def first_reason(error: ValidationError) -> str:
    """Where something is wrong first, and what, in a line."""
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")
