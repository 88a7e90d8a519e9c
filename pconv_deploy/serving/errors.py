"""What a server answers when a request cannot be served: a status and one message."""

from pconv_deploy.errors import (
    EngineError,
    InputError,
    MissingRuntimeError,
    PConvError,
    PictureSizeError,
    UsageError,
)


class RequestError(PConvError):
    """A request that is answered with an error.

    status       of HTTP
    retry_after  seconds after which it may succeed
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ClientGoneError(RequestError):
    """The client left before its answer was made; nobody reads this."""

    def __init__(self) -> None:
        super().__init__(499, "the client left")


# The first that fits.
_STATUSES: tuple[tuple[type[PConvError], int], ...] = (
    (UsageError, 400),
    (PictureSizeError, 413),
    (InputError, 422),
    (EngineError, 500),
    (MissingRuntimeError, 500),
)


def status_of(error: PConvError) -> int:
    """The HTTP status that an error is answered with."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
