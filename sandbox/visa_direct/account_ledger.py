"""Account and wallet payouts in the ledger: accepted, advanced by a timetable, credited, cancelled, returned.

What is due is written when somebody looks: before each query, cancellation, and page of the ledger. So nothing runs
in the background, and a kill or a moved clock changes nothing about what is due when.
"""

import json
import sqlite3
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from sandbox.visa_direct.store import Row, insert_entry

QUERY_WINDOW_SECONDS: Final = 180 * 24 * 3600  # Visa's Account & Wallet pages
CANCELLABLE: Final = frozenset({"PAYMENT_RECEIVED", "AWAITING_INFORMATION"})
RECEIVED: Final = "PAYMENT_RECEIVED"
DELIVERED: Final = "PAYMENT_DELIVERED"
RETURNED: Final = "RETURNED"


@dataclass(frozen=True, slots=True)
class Payout:
    """One payout that was accepted. ``steps`` are (due time in ms, status), oldest first. Holds no account number."""

    payout_id: str
    client_reference_id: str
    initiating_party_id: str
    accepted_at_ms: int
    amount: str
    currency: str
    method: str
    recipient_fingerprint: str
    speed: str
    funding_status: str
    steps: tuple[tuple[int, str], ...]

    def status(self, now_ms: int, cancelled: tuple[int, int] | None) -> str:
        """The status at a time. ``cancelled`` is when a cancellation was asked for and decided, if it was."""
        if cancelled is not None:
            return "CANCELLED" if now_ms >= cancelled[1] else "PENDING_CANCELLATION"
        passed = [status for due_ms, status in self.steps if due_ms <= now_ms]
        return passed[-1] if passed else RECEIVED

    def dues(self) -> list[tuple[int, str]]:
        """When which money moves: the credit, and its return."""
        credited = [due_ms for due_ms, status in self.steps if status == DELIVERED]
        returned = [due_ms for due_ms, status in self.steps if status == RETURNED and credited]
        return [(due_ms, "account") for due_ms in credited] + [(due_ms, "account_return") for due_ms in returned]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**values | {"steps": tuple((due_ms, status) for due_ms, status in values["steps"])})


@dataclass(frozen=True, slots=True)
class Found:
    """A payout with its status at the time it was looked at."""

    payout: Payout
    status: str

    @property
    def at_ms(self) -> int:
        return self.payout.accepted_at_ms


def new_payout_id() -> str:
    """Visa's own name of a payout. Its form is not public; letters and hyphens, so it looks like no card number."""
    return f"VP-{uuid.uuid4()}"


def accept(connection: sqlite3.Connection, payout: Payout, *, refuse_repeat: bool) -> bool:
    """Append a payout and what is due of it. False if its reference is known and repeats are refused."""
    known = connection.execute(
        "SELECT 1 FROM account_payouts WHERE client_reference_id = ? AND initiating_party_id = ?",
        (payout.client_reference_id, payout.initiating_party_id),
    ).fetchone()
    if known is not None and refuse_repeat:
        return False
    connection.execute(
        "INSERT INTO account_payouts (payout_id, client_reference_id, initiating_party_id, accepted_at_ms, payout) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            payout.payout_id,
            payout.client_reference_id,
            payout.initiating_party_id,
            payout.accepted_at_ms,
            payout.to_json(),
        ),
    )
    connection.executemany(
        "INSERT INTO account_dues (payout_id, due_at_ms, operation) VALUES (?, ?, ?)",
        [(payout.payout_id, due_ms, operation) for due_ms, operation in payout.dues()],
    )
    return True


def settle(connection: sqlite3.Connection, now_ms: int) -> None:
    """Write the entries of everything that is due by now, in the order in which it fell due."""
    due = connection.execute(
        "SELECT d.rowid AS due_id, d.due_at_ms, d.operation, p.payout FROM account_dues d "
        "JOIN account_payouts p USING (payout_id) WHERE d.due_at_ms <= ? ORDER BY d.due_at_ms, d.rowid",
        (now_ms,),
    ).fetchall()
    for row in due:
        payout = Payout.from_json(row["payout"])
        insert_entry(connection, _entry(payout, row["operation"], int(row["due_at_ms"])))
        connection.execute("DELETE FROM account_dues WHERE rowid = ?", (row["due_id"],))


def find(connection: sqlite3.Connection, name: str, by: str, initiating_party_id: str, now_ms: int) -> list[Found]:
    """The payouts of a party under a client reference or a payout id, of the last 180 days, oldest first."""
    settle(connection, now_ms)
    column = {"CLIENT_REFERENCE_ID": "client_reference_id", "PAYOUT_ID": "payout_id"}[by]
    rows = connection.execute(
        f"SELECT payout FROM account_payouts WHERE {column} = ? AND initiating_party_id = ? "  # noqa: S608 - our names
        "AND accepted_at_ms > ? ORDER BY accepted_at_ms, rowid",
        (name, initiating_party_id, now_ms - QUERY_WINDOW_SECONDS * 1000),
    )
    payouts = [Payout.from_json(row["payout"]) for row in rows.fetchall()]
    return [Found(payout, payout.status(now_ms, _cancelled(connection, payout))) for payout in payouts]


def cancel(connection: sqlite3.Connection, found: Found, now_ms: int, decided_at_ms: int) -> bool:
    """Take a payout back, if it has not left yet. False if it is too late; once more changes nothing."""
    payout = found.payout
    if _cancelled(connection, payout) is not None:
        return True
    if found.status not in CANCELLABLE:
        return False
    connection.execute(
        "INSERT INTO account_cancellations (payout_id, asked_at_ms, decided_at_ms) VALUES (?, ?, ?)",
        (payout.payout_id, now_ms, decided_at_ms),
    )
    connection.execute("DELETE FROM account_dues WHERE payout_id = ?", (payout.payout_id,))
    return True


def shown(found: Found) -> dict[str, Any]:
    """A payout as a send or a query answers it."""
    payout = found.payout
    return {
        "payoutId": payout.payout_id,
        "status": found.status,
        "payoutSpeed": payout.speed,
        "fundingModel": "PREFUNDED",
        "fundingStatus": payout.funding_status,
        "payoutMethod": payout.method,
        "transactionDetail": {
            "initiatingPartyId": int(payout.initiating_party_id),
            "clientReferenceId": payout.client_reference_id,
            "transactionAmount": float(payout.amount),
            "transactionCurrencyCode": payout.currency,
        },
    }


def _cancelled(connection: sqlite3.Connection, payout: Payout) -> tuple[int, int] | None:
    row = connection.execute(
        "SELECT asked_at_ms, decided_at_ms FROM account_cancellations WHERE payout_id = ?", (payout.payout_id,)
    ).fetchone()
    return None if row is None else (int(row["asked_at_ms"]), int(row["decided_at_ms"]))


def _entry(payout: Payout, operation: str, at_ms: int) -> Row:
    status = DELIVERED if operation == "account" else RETURNED
    return {
        "at_ms": at_ms,
        "operation": operation,
        "money_moved": 1,
        "transaction_identifier": payout.payout_id,
        "acquiring_bin": "",
        "stan": "",
        "rrn": "",
        "id_code": None,
        "terminal_id": None,
        "client_transaction_id": None,
        "sender_reference": payout.client_reference_id,
        "amount": payout.amount,
        "currency": payout.currency,
        "recipient_fingerprint": payout.recipient_fingerprint,
        "last4": None,
        "action_code": "",
        "original_action_code": None,
        "duplicate_of": None,
        "approval_code": None,
        "response_code": "",
        "query_status": status,
        "status_identifier": None,
        "response": json.dumps(shown(Found(payout, status))),
    }
