"""Our own builders, transport and outcome tree against every fault of the stand-in: what each proves (S4, S5, C4)."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.secrets import CardNumber, Secret
from processors.visa import outcome as judge
from processors.visa.deadline import Deadline
from processors.visa.identity import identity_from_sequence
from processors.visa.mle import DecryptionKey, MessageEncryption
from processors.visa.requests import (
    CardAcceptor,
    FundingTransaction,
    Party,
    Recipient,
    SubmissionProfile,
    VisaRequest,
    adjust_funds,
    adjust_funds_again,
    push_funds,
    transaction_query,
)
from processors.visa.transport import VisaConnection, VisaDirectClient
from sandbox.visa_direct.faults import FAULTS
from tests.contract.visa_direct.visa_direct_client import APPROVED_CARD, VisaClient, eventually, funding

PAID, REFUSED, PENDING, UNKNOWN, NOT_FOUND = (
    OutcomeKind.PAID,
    OutcomeKind.REFUSED,
    OutcomeKind.PENDING,
    OutcomeKind.UNKNOWN,
    OutcomeKind.NOT_FOUND,
)
PLENTY_SECONDS = 30.0
ACCEPTOR = CardAcceptor(
    name="Payouts Inc", id_code="PAYOUTS01", terminal_id="PAYOUT01", country="US", city="Foster City", state="CA",
    county="San Mateo", zip_code="94404",
)  # fmt: skip
PROFILE = SubmissionProfile(
    acquiring_bin="408999", acquirer_country_code="840", card_acceptor=ACCEPTOR, merchant_category_code="6012"
)
IDENTITY = identity_from_sequence(7, datetime.now(UTC))
ADJUSTMENT_IDENTITY = identity_from_sequence(8, datetime.now(UTC))
PULL = funding(recipient=APPROVED_CARD)
FUNDING = FundingTransaction(
    systems_trace_audit_number=int(PULL["stan"]), retrieval_reference_number=PULL["rrn"],
    transaction_identifier=PULL["transactionIdentifier"], approval_code=PULL["approvalCode"],
    acquiring_bin=PULL["acquiringBin"], captured_at=datetime.now(UTC),
)  # fmt: skip
PUSH = push_funds(
    PROFILE,
    IDENTITY,
    payout_id="payout-0001",
    amount="25.00",
    currency="USD",
    sender=Party(
        name="Payouts Inc",
        address_line="1 Market St",
        city="Foster City",
        state_code="CA",
        postal_code="94404",
        country_code="US",
    ),
    recipient=Recipient(
        party=Party(name="Maria Example", country_code="US"), card=CardNumber(APPROVED_CARD), card_expiry="2031-12"
    ),
    sender_reference="PS00ABCDEF012345",
)
ADJUST = adjust_funds(
    PROFILE,
    ADJUSTMENT_IDENTITY,
    FUNDING,
    payout_id="payout-0001",
    amount=PULL["amount"],
    currency="USD",
    sender_card=CardNumber(APPROVED_CARD),
    sender_reference="PS00ABCDEF012345",
)

AFTER_SUBMISSION: dict[str, OutcomeKind] = {
    "refuse_connections": REFUSED,
    "refuse": UNKNOWN,
    "silence_before_effect": UNKNOWN,
    "reset_before_effect": UNKNOWN,
    "effect_then_silence": UNKNOWN,
    "effect_then_reset": UNKNOWN,
    "500": UNKNOWN,
    "502": UNKNOWN,
    "503": UNKNOWN,
    "504": UNKNOWN,
    "effect_then_500": UNKNOWN,
    "effect_then_502": UNKNOWN,
    "effect_then_503": UNKNOWN,
    "effect_then_504": UNKNOWN,
    "400": REFUSED,
    "401": REFUSED,
    "403": REFUSED,
    "404": REFUSED,
    "429": REFUSED,
    "slow": PAID,
    "late_202": PENDING,
    "malformed_body": UNKNOWN,
    "undecryptable_body": UNKNOWN,
}
"""On every rail."""
AFTER_PUSH: dict[str, OutcomeKind] = {
    **AFTER_SUBMISSION,
    "every_field": PAID,
    "no_action_code": UNKNOWN,
    "duplicate_with_original": PAID,
    "duplicate_without_original": UNKNOWN,
}
AFTER_QUERY: dict[str, OutcomeKind] = {
    "query_lag": NOT_FOUND,
    "query_not_found": NOT_FOUND,
    "query_stale_in_progress": PENDING,
    "query_stale_duplicate": PAID,
    "query_stale_bare_duplicate": UNKNOWN,
    "query_cancelled": OutcomeKind.OPERATOR,
}


def client_of(visa: VisaClient) -> VisaDirectClient:
    """The product's client, set up from what a client of the stand-in is given."""
    directory: Path = visa.directory
    private_key = Secret((directory / "mle_client_private_key.pem").read_text())
    encryption = MessageEncryption(
        key_id=visa.key_id,
        server_certificate_pem=(directory / "mle_server_certificate.pem").read_bytes(),
        decryption_keys=[DecryptionKey(visa.key_id, private_key)],
    )
    return VisaDirectClient(
        VisaConnection(
            base_url=visa.base_url,
            user_id=visa.basic[0],
            password=Secret(visa.basic[1]),
            client_certificate_path=directory / "client_certificate.pem",
            client_key_path=directory / "client_key.pem",
            ca_path=directory / "ca.pem",
            encryption=encryption,
        )
    )


@pytest.fixture
async def ours(visa: VisaClient) -> AsyncIterator[VisaDirectClient]:
    async with client_of(visa) as client:
        yield client


async def plan(visa: VisaClient, fault: str, operation: str, **more: Any) -> None:
    if "seconds" in more and more["seconds"] is None:
        del more["seconds"]
    await visa.faults({"operation": operation, "fault": fault} | more)


async def push(ours: VisaDirectClient) -> Outcome:
    return judge.outcome_of_push(await ours.send(PUSH, Deadline.after(PLENTY_SECONDS)))


async def ask(ours: VisaDirectClient) -> Outcome:
    exchange = await ours.send(transaction_query(IDENTITY, "408999"), Deadline.after(PLENTY_SECONDS))
    return judge.outcome_of_query(exchange, "25.00", "USD", transaction=IDENTITY)


async def moved(visa: VisaClient, operation: str) -> int:
    return sum(entry["money_moved"] for entry in await visa.entries() if entry["operation"] == operation)


def test_every_fault_is_judged_here() -> None:
    """A fault that this table does not know would be one whose meaning nobody has decided."""
    about_cards = {name for name, fault in FAULTS.items() if fault.operations & {"push", "query", "connect"}}
    assert AFTER_PUSH.keys() | AFTER_QUERY.keys() == about_cards


@pytest.mark.parametrize("fault", sorted(AFTER_PUSH))
async def test_what_a_push_has_proven_under_each_fault(visa: VisaClient, ours: VisaDirectClient, fault: str) -> None:
    """S4, P2, P3: refused means that no money moved; the same request again ends PAID with one effect."""
    operation = "connect" if fault == "refuse_connections" else "push"
    await plan(visa, fault, operation, seconds=0.1 if fault in ("slow", "late_202") or "silence" in fault else None)
    outcome = await push(ours)
    assert outcome.kind is AFTER_PUSH[fault]
    if outcome.kind is REFUSED:
        assert (await moved(visa, "push"), outcome.systemic) == (0, fault != "400")
    await visa.faults()
    if fault == "late_202":
        await visa.settled(f"{PUSH.path}/{outcome.status_identifier}")
    assert (await push(ours)).kind is PAID
    assert (await ask(ours)).kind is PAID
    assert await moved(visa, "push") == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_rate_limit_says_when_in_both_forms(visa: VisaClient, ours: VisaDirectClient, form: str) -> None:
    """S7: Retry-After is honoured as seconds and as a date."""
    await plan(visa, "429", "push", retry_after=30, retry_after_form=form)
    outcome = await push(ours)
    assert outcome.refusal is Refusal.RATE_LIMITED
    assert outcome.retry_after_seconds is not None
    assert 28 <= outcome.retry_after_seconds <= 32


@pytest.mark.parametrize("fault", sorted(AFTER_QUERY))
async def test_what_a_query_has_proven_under_each_fault(visa: VisaClient, ours: VisaDirectClient, fault: str) -> None:
    """S5, P3: stale or silent, it never says that a paid payout was not paid."""
    assert (await push(ours)).kind is PAID
    await plan(visa, fault, "query", times=1, seconds=3600)
    assert [(await ask(ours)).kind for _ in range(2)] == [AFTER_QUERY[fault], PAID]


async def adjust(ours: VisaDirectClient, request: VisaRequest = ADJUST) -> Outcome:
    return judge.outcome_of_adjustment(await ours.send(request, Deadline.after(PLENTY_SECONDS)))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (None, PAID),
        ("effect_then_reset", UNKNOWN),
        ("effect_then_503", UNKNOWN),
        ("late_202", UNKNOWN),
        ("duplicate_with_original", UNKNOWN),
        ("duplicate_without_original", UNKNOWN),
        ("no_action_code", UNKNOWN),
        ("malformed_body", UNKNOWN),
    ],
)
async def test_an_adjustment_is_taken_by_the_stand_in_and_its_query_proves_it(
    visa: VisaClient, ours: VisaDirectClient, fault: str | None, kind: OutcomeKind
) -> None:
    """C2, C4, S3: one effect, and whatever the answer said, the row under its own numbers says so."""
    assert (await visa.fund(PULL)).status_code == 201
    if fault is not None:
        await plan(visa, fault, "adjustment", seconds=0.0 if fault == "late_202" else None)
    assert (await adjust(ours)).kind is kind

    async def at_rest() -> bool:
        return not await visa.busy()

    await eventually(at_rest)
    asked = transaction_query(ADJUSTMENT_IDENTITY, "408999")
    exchange = await ours.send(asked, Deadline.after(PLENTY_SECONDS))
    found = judge.outcome_of_adjustment_query(exchange, PULL["amount"], "USD", transaction=ADJUSTMENT_IDENTITY)
    assert found.kind is PAID
    assert await moved(visa, "adjustment") == 1


async def test_a_refused_adjustment_comes_again_from_its_persisted_body(
    visa: VisaClient, ours: VisaDirectClient
) -> None:
    """S4, C3: 429 moved nothing; the same bytes then move the money once."""
    assert (await visa.fund(PULL)).status_code == 201
    await plan(visa, "429", "adjustment", times=1)
    assert (await adjust(ours)).kind is REFUSED
    assert await moved(visa, "adjustment") == 0
    assert ADJUST.body is not None
    assert (await adjust(ours, adjust_funds_again(ADJUST.body, payout_id="payout-0001"))).kind is PAID
    assert await moved(visa, "adjustment") == 1
