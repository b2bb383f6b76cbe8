"""What an error is called, and what people can do about it. Names and advises; decides nothing (rule S9).

The one tree of errors, by how a payout that meets one is handled; read off the outcome, which is all that decides:

    a call's outcome
    ├── UNKNOWN    it may have taken effect: ask, never guess
    │              UNKNOWN, OPERATOR: no answer after bytes left · 408, 409, 422, 5xx · an answer that nobody can read
    ├── SYSTEMIC   nothing took effect, and no payout can pass until somebody repairs it: calls of that kind stop
    │              REFUSED by CREDENTIALS (401, 403), WRONG_ENDPOINT (404, 405, 415), or nothing could be encrypted
    ├── RETRYABLE  nothing took effect, and the same may pass later: the schedule sends it again
    │              REFUSED by RATE_LIMITED (429), NOT_CONNECTED (no byte left)
    ├── FINAL      nothing took effect by this attempt, and it never will: the payout ends unless an earlier attempt may
    │              have paid (rule S6)
    │              DECLINED by an allowed action code · REFUSED by REQUEST_INVALID (400)
    └── no error   PAID · PENDING (202, 303) · NOT_FOUND (the answer to a question)

`errors.yaml` has the 34 published names with their HTTP status, code, `retryable` and our advice. Its `retryable` is
what the table's authors say, and no more: a 500 is "retryable" there and UNKNOWN here, an answer that cannot be
decrypted is "not retryable" there and UNKNOWN here. Its codes are no action codes (51, 61, 62, 14, 41 and 12 mean other
things): what an issuer answered is looked up in `action_codes.yaml` and only there.

Nothing that decides may import this; import-linter holds it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

import yaml

from processors.payout.outcome import STAGE_STOPPING_REFUSALS, Outcome, OutcomeKind, Refusal
from processors.visa.action_codes import APPROVED, action_codes, declines
from processors.visa.exchange import FailureCause
from processors.visa.unique_yaml import RepeatedKey, load_unique

ADVICE_CHARACTERS_MIN: Final = 20
HTTP_STATUSES: Final = frozenset({"400", "401", "403", "404", "408", "409", "422", "429", "500", "502", "503", "504"})
FALLBACK: Final = "UNKNOWN_ERROR"
_FIELDS: Final = frozenset(
    {
        "name", "http_status", "code", "retryable", "category", "origin", "handling", "message", "recommended_action",
        "reasons",
    }
)  # fmt: skip
_REASON: Final = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_HTTP_REASON: Final = re.compile(r"(HTTP_[0-9]{3})(?:_([0-9A-Z]{1,8}))?")
_CODE_REASON: Final = re.compile(r"ACTION_CODE_([0-9A-Z]{2})")
_NOT_FOUND_ON: Final[Mapping[str, str]] = {"CARD": "CARD_NOT_FOUND", "WALLET": "WALLET_NOT_FOUND"}
"""A 404 is named after the rail; without one, or on the account rail, ACCOUNT_NOT_FOUND."""


class ErrorsInvalid(Exception):
    """The table is not what it should be; the text says which entry is wrong."""


class ErrorCategory(StrEnum):
    """The ten kinds of errors."""

    NETWORK = "network"
    AUTHENTICATION = "authentication"
    VALIDATION = "validation"
    BUSINESS = "business"
    TRANSACTION = "transaction"
    COMPLIANCE = "compliance"
    FX = "fx"
    SYSTEM = "system"
    RATE_LIMIT = "rate_limit"
    ENCRYPTION = "encryption"


class Handling(StrEnum):
    """The four branches of the tree above."""

    FINAL = "final"
    RETRYABLE = "retryable"
    UNKNOWN = "unknown"
    SYSTEMIC = "systemic"


class Origin(StrEnum):
    """Whether Visa said it, or we found it before any call."""

    VISA = "visa"
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class VisaError:
    """One entry of the table. `http_status` is the table's, `retryable` its authors' opinion; neither decides."""

    key: str
    name: str
    http_status: int
    code: str
    retryable: bool
    category: ErrorCategory
    origin: Origin
    handling: Handling
    message: str
    recommended_action: str
    reasons: tuple[str, ...]

    @property
    def error_type(self) -> str:
        """The coarse label of dashboards: certificate, jwks, mle, or the category."""
        return _TYPES.get(self.key, self.category.value)


_TYPES: Final[Mapping[str, str]] = {
    "CERTIFICATE_INVALID": "certificate",
    "JWKS_UNAVAILABLE": "jwks",
    "JWE_ENCRYPT_ERROR": "mle",
    "JWE_DECRYPT_ERROR": "mle",
}


@dataclass(frozen=True, slots=True)
class VisaErrorContext:
    """One call's error: the entry, and what this call adds to it. Holds no card number and no personal data."""

    error: VisaError
    handling: Handling
    """Of this very outcome, which may be better than the entry's: a time-out before the first byte is no UNKNOWN."""
    reason_code: str
    rail: str
    corridor: str
    http_status: int | None
    """What was really answered; None without an answer."""
    visa_code: str | None
    """Visa's own word: the action code, or the code of its error body."""
    visa_meaning: str | None
    """What the action code means, from `action_codes.yaml`."""
    visa_correlation_id: str | None

    @property
    def name(self) -> str:
        """The published name, for example `NetworkTimeout`."""
        return self.error.name

    @property
    def category(self) -> ErrorCategory:
        """One of the ten kinds."""
        return self.error.category

    @property
    def retryable(self) -> bool:
        """What the published table says; see the module."""
        return self.error.retryable

    @property
    def recommended_action(self) -> str:
        """What a person can do."""
        return self.error.recommended_action


def describe(outcome: Outcome, *, rail: str, corridor: str) -> VisaErrorContext | None:
    """The name and the context of what a call came to; None for what is no error.

    `rail` is CARD, ACCOUNT or WALLET; `corridor` a text for people, for example `US-MX`.
    """
    handling = handling_of(outcome)
    if handling is None:
        return None
    declined = outcome.kind is OutcomeKind.DECLINED
    error = error_table()["TRANSACTION_DECLINED"] if declined else error_named(outcome.reason_code, rail=rail)
    meaning = action_codes().get(outcome.action_code or "")
    return VisaErrorContext(
        error=error or error_table()[FALLBACK],
        handling=handling,
        reason_code=outcome.reason_code,
        rail=rail,
        corridor=corridor,
        http_status=outcome.http_status,
        visa_code=outcome.action_code or _gateway_code(outcome.reason_code),
        visa_meaning=None if meaning is None else meaning.meaning,
        visa_correlation_id=outcome.visa_correlation_id,
    )


def handling_of(outcome: Outcome) -> Handling | None:
    """The branch of the tree; None for what is no error."""
    match outcome.kind:
        case OutcomeKind.UNKNOWN | OutcomeKind.OPERATOR:
            return Handling.UNKNOWN
        case OutcomeKind.DECLINED:
            return Handling.FINAL
        case OutcomeKind.REFUSED if outcome.refusal is Refusal.REQUEST_INVALID:
            return Handling.FINAL
        case OutcomeKind.REFUSED if outcome.refusal in STAGE_STOPPING_REFUSALS:
            return Handling.SYSTEMIC
        case OutcomeKind.REFUSED if outcome.reason_code == FailureCause.ENCRYPTION_FAILED:
            return Handling.SYSTEMIC
        case OutcomeKind.REFUSED:
            return Handling.RETRYABLE
        case _:
            return None


def error_named(reason_code: str, *, rail: str = "CARD") -> VisaError | None:
    """The entry that names a reason code of ours, of a result or of a call; None when none does.

    An action code is never looked for among the table's own codes: only whether it declines, or speaks of an issuer
    that is away for the moment, gives the name.
    """
    table, by_reason = error_table(), _by_reason()
    if reason_code in by_reason:
        return table[_on_rail(by_reason[reason_code], rail)]
    http = _HTTP_REASON.match(reason_code)
    if http is not None:
        return table[_on_rail(by_reason.get(http[1], FALLBACK), rail)]
    code = _CODE_REASON.fullmatch(reason_code)
    if code is None:
        return table[FALLBACK] if reason_code.startswith("REPLY_") else None
    if code[1] in APPROVED:
        return None
    if declines(code[1]):
        return table["TRANSACTION_DECLINED"]
    meaning = action_codes().get(code[1])
    return table["ISSUER_UNAVAILABLE" if meaning is not None and meaning.category == "temporary" else FALLBACK]


def _on_rail(key: str, rail: str) -> str:
    return _NOT_FOUND_ON.get(rail, key) if key == "ACCOUNT_NOT_FOUND" else key


def _gateway_code(reason_code: str) -> str | None:
    http = _HTTP_REASON.fullmatch(reason_code)
    return None if http is None else http[2]


@cache
def error_table() -> Mapping[str, VisaError]:
    """The table by key. Raises ErrorsInvalid."""
    return parse_errors(resources.files(__package__).joinpath("errors.yaml").read_text(encoding="utf-8"))


@cache
def _by_reason() -> Mapping[str, str]:
    return {reason: entry.key for entry in error_table().values() for reason in entry.reasons}


def parse_errors(text: str) -> Mapping[str, VisaError]:
    """The table from its text, checked. Raises ErrorsInvalid."""
    try:
        document = load_unique(text)
    except RepeatedKey as error:
        raise ErrorsInvalid(str(error)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ErrorsInvalid(f"the file is not acceptable YAML ({type(error).__name__})") from None
    if not isinstance(document, dict) or set(document) != {"errors"} or not isinstance(document["errors"], dict):
        raise ErrorsInvalid("the file must hold one mapping named errors")
    table = {key: _entry(key, entry) for key, entry in document["errors"].items()}
    if FALLBACK not in table:
        raise ErrorsInvalid(f"{FALLBACK} must be there: it is the name of what has no other")
    for what, values in (
        ("name", [entry.name for entry in table.values()]),
        ("code", [entry.code for entry in table.values()]),
        ("reason", [reason for entry in table.values() for reason in entry.reasons]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ErrorsInvalid(f"each {what} may stand once: {', '.join(twice)}")
    return MappingProxyType(table)


def _entry(key: object, entry: object) -> VisaError:
    if not isinstance(key, str) or not _REASON.fullmatch(key):
        raise ErrorsInvalid("every key must be in capital letters")
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise ErrorsInvalid(f"{key} must have exactly {', '.join(sorted(_FIELDS))}")
    texts = [entry[name] for name in ("name", "code", "message", "recommended_action")]
    if not all(isinstance(text, str) and text for text in texts):
        raise ErrorsInvalid(f"{key}: name, code, message and recommended_action must be texts")
    if str(entry["http_status"]) not in HTTP_STATUSES or not isinstance(entry["http_status"], int):
        raise ErrorsInvalid(f"{key}: http_status must be one of an error")
    if not isinstance(entry["retryable"], bool):
        raise ErrorsInvalid(f"{key}: retryable must be true or false")
    action, reasons = entry["recommended_action"], entry["reasons"]
    if len(action) <= ADVICE_CHARACTERS_MIN or ("retry" in action.lower()) is not entry["retryable"]:
        raise ErrorsInvalid(f"{key}: the advice must be a sentence, and say retry exactly if retryable is true")
    if not isinstance(reasons, list) or not all(isinstance(item, str) and _REASON.fullmatch(item) for item in reasons):
        raise ErrorsInvalid(f"{key}: reasons must be a list of reason codes")
    try:
        kinds = ErrorCategory(entry["category"]), Origin(entry["origin"]), Handling(entry["handling"])
    except ValueError:
        raise ErrorsInvalid(f"{key} has a category, an origin or a handling that errors.py does not know") from None
    name, code, message, _ = texts
    return VisaError(key, name, entry["http_status"], code, entry["retryable"], *kinds, message, action, tuple(reasons))
