"""What a push, a reversal or an adjustment does to the ledger: decided in one place, in the writer's transaction."""

import json
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Final, Literal, Self

from sandbox.visa_direct.settings import DUPLICATE_WINDOW_SECONDS, REVERSAL_WINDOW_SECONDS
from sandbox.visa_direct.store import Row, insert_entry, insert_request, iso_time, set_meta

# Approved, partially approved, approved VIP: in Visa's public tables only these move money.
MONEY_MOVING: Final = frozenset({"00", "10", "11"})
DUPLICATE: Final = "94"
CANNOT_LOCATE: Final = "25"
INVALID_AMOUNT: Final = "13"
INVALID_TRANSACTION: Final = "12"
# responseCode is one character and names who answered, not what: the issuer, or the network itself.
FROM_ISSUER: Final = "5"
FROM_NETWORK: Final = "V"
NO_MATCHING_ORIGINAL: Final = "8"
_NETWORK_CODES: Final = frozenset({DUPLICATE, "91", "96"})

# transactionIdentifier has 15 digits. The middle 13 walk through a full cycle, so none repeats in one ledger.
_IDENTIFIER_SPACE: Final = 10**13
_IDENTIFIER_STEP: Final = 6_180_339_887_499  # odd and no multiple of 5, hence coprime to the space


@dataclass(frozen=True, slots=True)
class Draft:
    """A request whose effect is still to come. Holds no card number, so it may be written down.

    ``transaction_identifier`` and ``original_approval_code`` are those of the AFT that a reversal undoes; an
    adjustment names its AFT by the identifier alone.
    """

    operation: Literal["push", "reverse", "adjustment"]
    status_identifier: str
    acquiring_bin: str
    stan: str
    rrn: str
    id_code: str
    terminal_id: str
    client_transaction_id: str | None
    sender_reference: str | None
    amount: str
    currency: str
    recipient_fingerprint: str
    last4: str | None
    action_code: str
    reply_action_code: str | None
    approval_code: str | None
    query_status: str
    transaction_identifier: str | None = None
    original_approval_code: str | None = None
    response_code: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    @property
    def numbers(self) -> tuple[str, str, str]:
        """What the transaction query knows a transaction by."""
        return self.acquiring_bin, self.stan, self.rrn


@dataclass(frozen=True, slots=True)
class _Decision:
    action_code: str
    response_code: str
    reply_action_code: str
    transaction_identifier: str
    approval_code: str | None = None
    original: Row | None = None
    query_status: str = "COMPLETED"


def take_effect(connection: sqlite3.Connection, draft: Draft, now_ms: int, request: Mapping[str, Any]) -> Row:
    """Append the effect of ``draft`` and, unless a 202 logged it already, the attempt. Returns the entry.

    Runs in the writer's transaction, so of two requests with the same five key fields exactly one finds the
    other: the second gets 94 and moves nothing. An adjustment has no such protection.
    """
    decision = _DECISIONS[draft.operation](connection, draft, now_ms)
    entry = _entry(draft, decision, now_ms)
    entry["id"] = insert_entry(connection, entry)
    waited = connection.execute("DELETE FROM pending WHERE status_identifier = ?", (draft.status_identifier,)).rowcount
    if not waited:
        insert_request(connection, request)
    return entry


def accept_for_later(
    connection: sqlite3.Connection,
    draft: Draft,
    accepted_at_ms: int,
    due_at_ms: int,
    request: Mapping[str, Any],
) -> bool:
    """Write down a request that is answered with 202, so that its effect survives our own kill.

    False if the effect came first: then there is nothing to wait for.
    """
    if connection.execute("SELECT 1 FROM entries WHERE status_identifier = ?", (draft.status_identifier,)).fetchone():
        return False
    connection.execute(
        "INSERT INTO pending (status_identifier, accepted_at_ms, due_at_ms, draft) VALUES (?, ?, ?, ?)",
        (draft.status_identifier, accepted_at_ms, due_at_ms, draft.to_json()),
    )
    insert_request(connection, request)
    return True


def record_funding(
    connection: sqlite3.Connection, entry: Mapping[str, Any]
) -> tuple[int, Literal["made", "same", "other"]]:
    """Append an AFT given as a fixture. A repeat is ``same``; other content under its numbers is ``other``."""
    numbers = (entry["stan"], entry["rrn"], entry["acquiring_bin"])
    row = connection.execute(
        "SELECT * FROM entries WHERE operation = 'funding' AND stan = ? AND rrn = ? AND acquiring_bin = ?",
        numbers,
    ).fetchone()
    if row is None:
        return insert_entry(connection, entry), "made"
    compared = ("at_ms", "transaction_identifier", "amount", "currency", "approval_code", "recipient_fingerprint")
    same = all(row[name] == entry[name] for name in compared)
    return int(row["id"]), "same" if same else "other"


def status_identifier(now_ms: int) -> str:
    """In the shape of Visa's (1491819372_186_81_l73c003_VDP_ARM); the hexadecimal part makes it unique."""
    return f"{now_ms // 1000}_{secrets.randbelow(900) + 100}_{secrets.token_hex(8)}_VDP_ARM"


def fails_check_digit(digits: str) -> bool:
    """Whether ``digits`` can be no card number, because the Luhn sum is wrong."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 != 0


def _decide_push(connection: sqlite3.Connection, draft: Draft, now_ms: int) -> _Decision:
    original = connection.execute(
        "SELECT * FROM entries WHERE stan = ? AND rrn = ? AND acquiring_bin = ? AND id_code = ? "
        "AND terminal_id = ? AND operation = 'push' AND action_code != ? AND at_ms > ? ORDER BY id LIMIT 1",
        (
            draft.stan,
            draft.rrn,
            draft.acquiring_bin,
            draft.id_code,
            draft.terminal_id,
            DUPLICATE,
            now_ms - DUPLICATE_WINDOW_SECONDS * 1000,
        ),
    ).fetchone()
    if original is not None:
        return _duplicate(dict(original))
    identifier = _next_identifier(connection)
    approved = draft.action_code in MONEY_MOVING
    return _Decision(
        action_code=draft.action_code,
        response_code=draft.response_code or (FROM_NETWORK if draft.action_code in _NETWORK_CODES else FROM_ISSUER),
        reply_action_code=draft.reply_action_code or draft.action_code,
        transaction_identifier=identifier,
        approval_code=(draft.approval_code or f"{identifier[-6:-1]}K") if approved else None,
        query_status=draft.query_status,
    )


def _decide_reverse(connection: sqlite3.Connection, draft: Draft, now_ms: int) -> _Decision:
    """A reversal belongs to one AFT, agrees with it, comes in time and takes effect once."""
    assert draft.transaction_identifier is not None
    rows = [
        dict(row)
        for row in connection.execute(
            "SELECT * FROM entries WHERE stan = ? AND rrn = ? AND acquiring_bin = ? "
            "AND transaction_identifier = ? AND operation IN ('funding', 'reverse') ORDER BY id",
            (draft.stan, draft.rrn, draft.acquiring_bin, draft.transaction_identifier),
        )
    ]
    funding = next((row for row in rows if row["operation"] == "funding"), None)
    if funding is None or not _agrees(draft, funding):
        return _refused_reversal(draft, CANNOT_LOCATE, NO_MATCHING_ORIGINAL)
    done = next((row for row in rows if row["operation"] == "reverse" and row["money_moved"]), None)
    if done is not None:
        return _duplicate(done)
    if Decimal(draft.amount) != Decimal(funding["amount"]) or draft.currency != funding["currency"]:
        return _refused_reversal(draft, INVALID_AMOUNT, FROM_NETWORK)
    if now_ms - int(funding["at_ms"]) > REVERSAL_WINDOW_SECONDS * 1000:
        return _refused_reversal(draft, INVALID_TRANSACTION, FROM_NETWORK)
    return _Decision(
        action_code=draft.action_code,
        response_code=FROM_ISSUER,
        reply_action_code=draft.reply_action_code or draft.action_code,
        transaction_identifier=draft.transaction_identifier,
        approval_code=draft.original_approval_code if draft.action_code in MONEY_MOVING else None,
        query_status=draft.query_status,
    )


def _decide_adjustment(connection: sqlite3.Connection, draft: Draft, _: int) -> _Decision:
    """An adjustment credits what an AFT took, at any age of it, and knows no duplicates: a repeat credits again.

    Visa's OpenAPI: it carries the AFT's transaction identifier, and numbers that differ from the AFT's.
    """
    assert draft.transaction_identifier is not None
    found = connection.execute(
        "SELECT * FROM entries WHERE transaction_identifier = ? AND acquiring_bin = ? AND operation = 'funding'",
        (draft.transaction_identifier, draft.acquiring_bin),
    ).fetchone()
    if found is None or found["recipient_fingerprint"] != draft.recipient_fingerprint:
        return _refused_reversal(draft, CANNOT_LOCATE, NO_MATCHING_ORIGINAL)
    if draft.stan == found["stan"] or draft.rrn == found["rrn"]:
        return _refused_reversal(draft, INVALID_TRANSACTION, FROM_NETWORK)
    if Decimal(draft.amount) != Decimal(found["amount"]) or draft.currency != found["currency"]:
        return _refused_reversal(draft, INVALID_AMOUNT, FROM_NETWORK)
    return _Decision(
        action_code=draft.action_code,
        response_code=FROM_ISSUER,
        reply_action_code=draft.reply_action_code or draft.action_code,
        transaction_identifier=draft.transaction_identifier,
        query_status=draft.query_status,
    )


_DECISIONS: Final = {"push": _decide_push, "reverse": _decide_reverse, "adjustment": _decide_adjustment}


def _agrees(draft: Draft, funding: Row) -> bool:
    ours = (draft.original_approval_code, draft.recipient_fingerprint)
    return ours == (funding["approval_code"], funding["recipient_fingerprint"])


def _duplicate(original: Row) -> _Decision:
    return _Decision(
        action_code=DUPLICATE,
        response_code=FROM_NETWORK,
        reply_action_code=DUPLICATE,
        transaction_identifier=original["transaction_identifier"],
        original=original,
    )


def _refused_reversal(draft: Draft, action_code: str, response_code: str) -> _Decision:
    assert draft.transaction_identifier is not None
    return _Decision(
        action_code=action_code,
        response_code=response_code,
        reply_action_code=action_code,
        transaction_identifier=draft.transaction_identifier,
    )


def _entry(draft: Draft, decision: _Decision, now_ms: int) -> Row:
    original = decision.original
    return {
        "at_ms": now_ms,
        "operation": draft.operation,
        "money_moved": int(decision.action_code in MONEY_MOVING),
        "transaction_identifier": decision.transaction_identifier,
        "acquiring_bin": draft.acquiring_bin,
        "stan": draft.stan,
        "rrn": draft.rrn,
        "id_code": draft.id_code,
        "terminal_id": draft.terminal_id,
        "client_transaction_id": draft.client_transaction_id,
        "sender_reference": draft.sender_reference,
        "amount": draft.amount,
        "currency": draft.currency,
        "recipient_fingerprint": draft.recipient_fingerprint,
        "last4": draft.last4,
        "action_code": decision.action_code,
        "original_action_code": original["action_code"] if original else None,
        "duplicate_of": original["id"] if original else None,
        "approval_code": decision.approval_code,
        "response_code": decision.response_code,
        "query_status": decision.query_status,
        "status_identifier": draft.status_identifier,
        "response": json.dumps(_response(draft, decision, now_ms)),
    }


def _response(draft: Draft, decision: _Decision, now_ms: int) -> dict[str, object]:
    """The 200 body of Visa's OpenAPI. transactionIdentifier is a number here, a string in the query."""
    if draft.operation == "adjustment":
        return {
            "transactionIdentifier": int(decision.transaction_identifier),
            "actionCode": decision.reply_action_code,
            "dateAndTimeTransmission": iso_time(now_ms),
        }
    response: dict[str, object] = {
        "transactionIdentifier": int(decision.transaction_identifier),
        "actionCode": decision.reply_action_code,
        "responseCode": decision.response_code,
        "transmissionDateTime": iso_time(now_ms),
        "retrievalReferenceNumber": draft.rrn,
    }
    if decision.approval_code and decision.reply_action_code in MONEY_MOVING:
        response["approvalCode"] = decision.approval_code
    if draft.last4 is not None:
        response["last4ofPAN"] = int(draft.last4)
    if decision.original is not None:
        response["originalActionCode"] = decision.original["action_code"]
    return response


def _next_identifier(connection: sqlite3.Connection) -> str:
    """15 digits, never twice in one ledger, and never one that passes a card number's check digit.

    The last point is for whoever scans files for card numbers: an identifier must not look like one.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = 'identifier'").fetchone()
    previous = int(row["value"]) if row else secrets.randbelow(_IDENTIFIER_SPACE)
    middle = (previous + _IDENTIFIER_STEP) % _IDENTIFIER_SPACE
    set_meta(connection, "identifier", str(middle))
    identifier = f"2{middle:013d}7"
    return identifier if fails_check_digit(identifier) else f"2{middle:013d}3"
