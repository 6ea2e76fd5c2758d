"""Reads JSON that anybody may have written."""

import json
from typing import Any


def decoded(text: bytes | str) -> Any:
    """The value that a text in JSON is.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 ({error}): save it as that") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
