"""What `results.json` must hold for those who read it back."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    FiniteFloat,
    NonNegativeInt,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from reward_benchmark.datasets import BENCHMARKS, PREFERENCES
from reward_benchmark.errors import RunDirectoryError
from reward_benchmark.json_text import decoded, first_reason
from reward_benchmark.run_directory import RESULTS_FILE

PREFERENCE_SETS = {**BENCHMARKS, PREFERENCES.name: PREFERENCES}
"""What a run of preferences may be about, by name."""

Ends = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
"""Of an interval, as JSON."""


class _Estimate(BaseModel):
    score: FiniteFloat
    ci95: Ends | None


class _Subset(BaseModel):
    accuracy: FiniteFloat
    ci95: Ends | None
    count: NonNegativeInt


class _Counts(BaseModel):
    groups: NonNegativeInt
    wins: NonNegativeInt
    credit: FiniteFloat
    errors: NonNegativeInt


class _Data(BaseModel):
    path: str
    subsets: list[str] | None
    limit: int | None


class _Template(BaseModel):
    source: str


class _Reference(BaseModel):
    id: str


class _Service(BaseModel):
    model: dict[str, Any]
    template: _Template
    reference: _Reference | None = None


class _Member(BaseModel):
    model: str


class _Settings(BaseModel):
    scorer: str | None = None
    members: list[_Member] = []


class _Provenance(BaseModel):
    fingerprint: str | None
    info: _Service | None = None
    dataset: _Data
    run: _Settings
    time: str


def _known(benchmark: str) -> str:
    if benchmark not in PREFERENCE_SETS:
        raise PydanticCustomError("set", "no set is called {name}", {"name": repr(benchmark)})
    return benchmark


class Results(BaseModel):
    """What every reader of any `results.json` may rely on."""

    dataset: str
    model: str
    model_type: str
    provenance: _Provenance


class PreferenceResults(Results):
    """The same of a preference set."""

    benchmark: Annotated[str, AfterValidator(_known)]
    overall: FiniteFloat
    overall_ci95: Ends | None
    absent: list[str]
    sections: dict[str, _Estimate]
    subsets: dict[str, _Subset]
    counts: _Counts


R = TypeVar("R", bound=Results)


def read_results(path: Path, form: type[R], *, of: str) -> tuple[dict[str, Any], R]:
    """The content of a directory's `results.json`, as it is and as far as it was checked.

    Args:
        form: what it must be like.
        of: what has such numbers, for people.

    Raises:
        RunDirectoryError: it is not like that.
    """
    file = path / RESULTS_FILE
    try:
        document = decoded(file.read_bytes())
        return document, form.model_validate(document, strict=True)
    except ValueError as error:
        reason = first_reason(error) if isinstance(error, ValidationError) else error
        raise RunDirectoryError(
            f"{file} does not hold the numbers of {of} ({reason}): the command that began the run "
            "writes it anew"
        ) from error
