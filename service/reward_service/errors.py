"""What goes wrong inside the service, as data; `responses.py` turns it into answers.

The codes are the wire contract's (`reward_client.schema.ErrorCode`, a test proves it), spelled out
here because the engine also runs where pydantic is not installed.
"""

from typing import ClassVar

MAX_QUOTED_CHARACTERS = 500


class StartupError(Exception):
    """The service cannot start; the message is one sentence with the remedy."""


class DeviceFailedError(Exception):
    """The device cannot compute any more (a GPU after an illegal access): only a restart helps."""


def one_line(error: BaseException) -> str:
    """Another library's message, fit to stand in a sentence of ours."""
    return " ".join(str(error).split())[:MAX_QUOTED_CHARACTERS]


class ServiceError(Exception):
    """Root of everything a request can fail with."""

    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        input_index: int | None = None,
        completion_index: int | None = None,
        limit: float | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.input_index = input_index
        self.completion_index = completion_index
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds

    def at(self, *, input_index: int, completion_index: int | None = None) -> "ServiceError":
        """The same error, saying which input (and completion) it belongs to."""
        self.input_index = input_index
        if completion_index is not None:
            self.completion_index = completion_index
        return self


class InvalidJsonError(ServiceError):
    """The body is not JSON."""

    code = "invalid_json"


class InvalidRequestError(ServiceError):
    """The body is JSON, but not a request."""

    code = "invalid_request"


class UnauthorizedError(ServiceError):
    """The API key is missing or wrong."""

    code = "unauthorized"


class RequestTooLargeError(ServiceError):
    """The body has more bytes than the service reads."""

    code = "request_too_large"


class TooManyInputsError(ServiceError):
    """The request has more completions than one request may."""

    code = "too_many_inputs"


class InputTooLongError(ServiceError):
    """A sequence has more tokens than the model or the service takes."""

    code = "input_too_long"


class TemplateFailedError(ServiceError):
    """The chat template refuses the conversation."""

    code = "template_failed"


class InvalidTokenIdsError(ServiceError):
    """A token id is outside the vocabulary."""

    code = "invalid_token_ids"


class NotSupportedError(ServiceError):
    """The model that is served is not of a kind that could answer this."""

    code = "not_supported"


class NonFiniteScoreError(ServiceError):
    """The model's output for one completion is not a finite number."""

    code = "non_finite_score"


class InferenceFailedError(ServiceError):
    """The forward pass that this request was part of raised."""

    code = "inference_failed"


class OverloadedError(ServiceError):
    """There is no room for more work now."""

    code = "overloaded"


class NotReadyError(ServiceError):
    """The model is still loading, or the service is stopping."""

    code = "not_ready"


class DeadlineExceededError(ServiceError):
    """The request's deadline passed before it was computed."""

    code = "deadline_exceeded"
