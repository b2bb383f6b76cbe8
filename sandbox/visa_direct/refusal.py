"""An answer that is an error, in the shape of Visa's gateway."""

import json
from typing import Final

# Codes seen at Visa's gateway (Visa's error page and measurements by its users).
VALIDATION_ERROR: Final = "3001"
BAD_CREDENTIALS: Final = "9123"
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
