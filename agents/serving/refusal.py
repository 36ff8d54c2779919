"""What a request is told that gets no turn, in the form that OpenAI's clients read."""

from __future__ import annotations

from http import HTTPStatus

from toolenv.tools.calls import Json

_KINDS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class Refused(Exception):
    """A request gets no turn.

    Attributes:
        param: the field that breaks a rule, if one does.
        code: a word for programs.
        retry_after: seconds after which it may be tried again, if it may.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    def body(self) -> Json:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {})


def unfit(message: str, *, param: str | None = None, code: str = "invalid_request") -> Refused:
    """Of a request that breaks a rule."""
    return Refused(HTTPStatus.BAD_REQUEST, code, message, param=param)
