"""How a benchmark ends early: every error here is one sentence for the user and an exit code."""


class BenchmarkError(Exception):
    """The command cannot be carried out as it was given."""

    exit_code = 2


class DatasetError(BenchmarkError):
    """The dataset cannot be read, or a row of it is wrong."""


class RunDirectoryError(BenchmarkError):
    """The output directory holds something else than this run."""


class ServiceError(BenchmarkError):
    """The reward service cannot be used, or was lost during a run."""

    exit_code = 1


class InterruptedRunError(BenchmarkError):
    """The user ended the run."""

    exit_code = 130
