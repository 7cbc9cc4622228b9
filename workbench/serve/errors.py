"""Errors of the API, in the shape of OpenAI's: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from llm.errors import ConfigError, UserError


class ApiError(Exception):
    """An answer with an HTTP status of 400 or more."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
        type_ = kind.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": type_, "param": self.param, "code": self.code}}


def to_api_error(error: Exception) -> ApiError:
    """The answer for an exception of the model or of this program."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConfigError):
        first = error.problems[0]
        return ApiError(400, first.message, param=first.path.removeprefix("decode."))
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    return ApiError(500, f"The server failed ({type(error).__name__}: {error}).")
