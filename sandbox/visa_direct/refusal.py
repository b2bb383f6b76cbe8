"""An answer that is an error, in the shape of Visa's gateway."""

import json
from typing import Final

# Codes seen at Visa's gateway (Visa's error page and measurements by its users).
VALIDATION_ERROR: Final = "3001"
CREDENTIALS_MISSING: Final = "9123"
BAD_CREDENTIALS: Final = "9124"
CREDENTIAL_NOT_PRESENT: Final = "9125"
TOKEN_VALIDATION_FAILED: Final = "9209"  # noqa: S105 - an error code
ACCESS_DENIED: Final = "9611"
NO_CODE: Final = ""


class Refusal(Exception):
    """The request ends with an error envelope. ``message`` never holds a value of the request's body."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


class ProductRefusal(Exception):
    """A refusal in the shape of a newer product: a document of its own instead of the gateway's envelope."""

    def __init__(self, status: int, document: dict[str, object]) -> None:
        super().__init__(str(document.get("reason", status)))
        self.status = status
        self.document = document


def error_response(
    status: int, reason: str, message: str, details: list[dict[str, str]] | None = None
) -> ProductRefusal:
    """``errorResponse``, as Visa's rates and account attributes answer errors."""
    inner: dict[str, object] = {"status": str(status), "reason": reason, "message": message}
    return ProductRefusal(status, {"errorResponse": inner | ({"details": details} if details else {})})


def envelope(status: int, code: str, message: str) -> bytes:
    """The gateway's error body; always in the clear, so a client must read it without decrypting."""
    return json.dumps(
        {
            "responseStatus": {
                "status": status,
                "code": code,
                "severity": "ERROR",
                "message": message,
                "info": "",
            }
        }
    ).encode()
