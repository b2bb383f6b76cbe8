"""What one HTTP call to Visa came to. The transport makes these, `processors.visa.outcome` judges them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class BodyProblem(StrEnum):
    """Why the body of an answer is not usable JSON."""

    EMPTY = "EMPTY"
    NOT_JSON = "NOT_JSON"
    """Also JSON that says two things at once: repeated members, NaN. Short text is kept as `body`."""
    TOO_LARGE = "TOO_LARGE"
    CONTENT_ENCODING = "CONTENT_ENCODING"
    """Compressed, although we asked for identity."""
    UNDECRYPTABLE = "UNDECRYPTABLE"


class FailureCause(StrEnum):
    """Why there is no answer. The same cause is definite before bytes were sent and ambiguous after (rule S4)."""

    DEADLINE_PASSED = "DEADLINE_PASSED"
    """Our own deadline, checked in the last step before bytes leave (rule L3)."""
    ENCRYPTION_FAILED = "ENCRYPTION_FAILED"
    POOL_TIMEOUT = "POOL_TIMEOUT"
    CONNECT_FAILED = "CONNECT_FAILED"
    CONNECT_TIMEOUT = "CONNECT_TIMEOUT"
    TLS_HANDSHAKE_FAILED = "TLS_HANDSHAKE_FAILED"
    SERVER_CERTIFICATE_INVALID = "SERVER_CERTIFICATE_INVALID"
    CLIENT_CERTIFICATE_REFUSED = "CLIENT_CERTIFICATE_REFUSED"
    """In TLS 1.3 this is only seen after the request was sent: ambiguous for the payout, systemic for the stage."""
    WRITE_FAILED = "WRITE_FAILED"
    WRITE_TIMEOUT = "WRITE_TIMEOUT"
    READ_FAILED = "READ_FAILED"
    READ_TIMEOUT = "READ_TIMEOUT"
    SERVER_DISCONNECTED = "SERVER_DISCONNECTED"
    """The connection ended, or what came was not HTTP, before the answer was complete."""
    TOTAL_TIMEOUT = "TOTAL_TIMEOUT"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    """An error of ours; the log names its class."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete HTTP answer.

    `body` is decrypted JSON (decimals as `Decimal`), short plain text where it is not JSON, or None. `headers` holds
    the few that mean something here, with lower-case names. `elapsed_seconds` counts from the call of `send`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object | None = field(default=None, repr=False)
    body_problem: str | None = None
    visa_correlation_id: str | None = None
    elapsed_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """No complete answer. `bytes_sent` False proves that Visa saw nothing of the request; True proves nothing."""

    bytes_sent: bool
    cause: str
    elapsed_seconds: float = 0.0


Exchange = Answered | Failed
