"""What the API answers when it cannot do what was asked."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """An answer with a status, a code for programs and a message for people."""

    def __init__(
        self, status: HTTPStatus, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def as_json(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": {"code": self.code, "message": self.message}}


def bad_request(message: str) -> ApiError:
    """What was sent cannot be understood, or not be had."""
    return ApiError(HTTPStatus.BAD_REQUEST, "bad_request", message)


def not_found(message: str) -> ApiError:
    """There is no such thing."""
    return ApiError(HTTPStatus.NOT_FOUND, "not_found", message)


def wrong_state(message: str) -> ApiError:
    """It cannot be done to an instance in this state."""
    return ApiError(HTTPStatus.CONFLICT, "wrong_state", message)


def no_capacity(message: str) -> ApiError:
    """No card of this type is free."""
    return ApiError(HTTPStatus.CONFLICT, "no_capacity", message)


def insufficient_balance(message: str) -> ApiError:
    """The wallet does not hold what the first quantum costs."""
    return ApiError(HTTPStatus.PAYMENT_REQUIRED, "insufficient_balance", message)
