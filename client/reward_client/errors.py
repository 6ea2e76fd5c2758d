"""What can go wrong between a caller and a reward service, as exceptions.

RewardServiceError
├── ServiceConnectionError          no answer: refused, reset, name not found
│   └── ServiceTimeoutError         no answer within the client's timeout
├── UnexpectedResponseError         an answer that is not RewardServe's
├── ModelChangedError               parts of one call were answered by different models
└── ServiceStatusError              the service answered with an error
    ├── BadRequestError             the request is wrong and will stay wrong
    │   ├── AuthenticationError
    │   ├── NotFoundError
    │   ├── NotSupportedError
    │   └── InputTooLongError
    ├── ServerFailureError          the service failed on this request
    │   └── NonFiniteScoreError
    ├── DeadlineExceededError       the request's own deadline passed
    └── ServiceUnavailableError     overloaded or not ready: worth another try later
"""

from collections.abc import Mapping

from reward_client.schema import ErrorBody, ErrorCode


class RewardServiceError(Exception):
    """Root of everything this client raises about the service."""


class ServiceConnectionError(RewardServiceError):
    """The service could not be reached, or the connection broke."""


class ServiceTimeoutError(ServiceConnectionError):
    """The service did not answer within the client's timeout."""


class UnexpectedResponseError(RewardServiceError):
    """Something answered, but not with RewardServe's wire contract."""


class ModelChangedError(RewardServiceError):
    """Parts of one call were scored by models with different fingerprints."""


class ServiceStatusError(RewardServiceError):
    """The service answered with an error; the attributes say which."""

    def __init__(
        self,
        error: ErrorBody,
        *,
        status: int,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        where = "" if error.input_index is None else f" (input {error.input_index}"
        if where and error.completion_index is not None:
            where += f", completion {error.completion_index}"
        super().__init__(f"{error.message}{where and where + ')'} [{error.code}, HTTP {status}]")
        self.error = error
        self.status = status
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    @property
    def code(self) -> str:
        """The machine-readable reason, an `ErrorCode` where this client knows it."""
        return self.error.code


class BadRequestError(ServiceStatusError):
    """The request is wrong; sending it again cannot help."""


class AuthenticationError(BadRequestError):
    """The API key is missing or wrong."""


class NotFoundError(BadRequestError):
    """The route does not exist on this service."""


class NotSupportedError(BadRequestError):
    """The route exists, but not for the kind of model that is served."""


class InputTooLongError(BadRequestError):
    """An input has more tokens than the service accepts."""


class ServerFailureError(ServiceStatusError):
    """The service failed while it worked on the request, or on one completion of it."""


class NonFiniteScoreError(ServerFailureError):
    """The model's output for this completion is not a finite number."""


class DeadlineExceededError(ServiceStatusError):
    """The request was not computed before its deadline."""


class ServiceUnavailableError(ServiceStatusError):
    """The service is overloaded or not ready yet; the client retries this by itself."""


EXCEPTIONS: Mapping[ErrorCode, type[ServiceStatusError]] = {
    ErrorCode.INVALID_JSON: BadRequestError,
    ErrorCode.INVALID_REQUEST: BadRequestError,
    ErrorCode.UNAUTHORIZED: AuthenticationError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.METHOD_NOT_ALLOWED: BadRequestError,
    ErrorCode.REQUEST_TOO_LARGE: BadRequestError,
    ErrorCode.TOO_MANY_INPUTS: BadRequestError,
    ErrorCode.INPUT_TOO_LONG: InputTooLongError,
    ErrorCode.TEMPLATE_FAILED: BadRequestError,
    ErrorCode.INVALID_TOKEN_IDS: BadRequestError,
    ErrorCode.NOT_SUPPORTED: NotSupportedError,
    ErrorCode.NON_FINITE_SCORE: NonFiniteScoreError,
    ErrorCode.INFERENCE_FAILED: ServerFailureError,
    ErrorCode.INTERNAL_ERROR: ServerFailureError,
    ErrorCode.OVERLOADED: ServiceUnavailableError,
    ErrorCode.NOT_READY: ServiceUnavailableError,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceededError,
}
"""Error code → exception, completing `schema.ERROR_RULES`."""


def exception_type(code: str, *, status: int) -> type[ServiceStatusError]:
    """The exception for a code, or for a status alone when a proxy or newer server sent it."""
    try:
        return EXCEPTIONS[ErrorCode(code)]
    except ValueError:
        if status == 401:
            return AuthenticationError
        if status in (429, 502, 503):
            return ServiceUnavailableError
        return BadRequestError if 400 <= status < 500 else ServerFailureError
