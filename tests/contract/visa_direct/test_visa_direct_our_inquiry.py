"""Our questions before a payout against the stand-in: builders, transport and judges under each fault (B3, B8, S1)."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from processors.payout.events import InquiryVerdict
from processors.personal_data import BankAccount
from processors.secrets import CardNumber, Secret
from processors.visa.account_payouts import AccountProfile, validate_payout
from processors.visa.deadline import Deadline
from processors.visa.exchange import Exchange
from processors.visa.identity import identity_from_sequence
from processors.visa.inquiry import alias_resolution, card_attributes, card_validation, rate_quote
from processors.visa.inquiry_outcome import (
    Judged,
    outcome_of_account_validation,
    outcome_of_alias,
    outcome_of_card_attributes,
    outcome_of_card_validation,
    outcome_of_rate,
)
from processors.visa.requests import CardAcceptor, Party, SubmissionProfile, VisaRequest
from processors.visa.transport import VisaDirectClient
from sandbox.visa_direct.faults import FAULTS
from tests.contract.visa_direct.test_visa_direct_our_client import client_of, plan
from tests.contract.visa_direct.visa_direct_client import APPROVED_CARD, PARTY, VisaClient

PASSED, REFUSED, LATER = InquiryVerdict.PASSED, InquiryVerdict.REFUSED, InquiryVerdict.LATER
NO_PUSHES = "4000000000000101"
PROFILE = SubmissionProfile(
    acquiring_bin="408999",
    acquirer_country_code="840",
    card_acceptor=CardAcceptor(
        name="Payouts Inc", id_code="PAYOUTS01", terminal_id="T1", country="USA", state="CA", county="081",
        zip_code="94404",
    ),
)  # fmt: skip
# 7 of the sequence, in a block that no other test of the stand-in uses.
IDENTITY = identity_from_sequence(7_000_007, datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
LIMIT_SECONDS = 30.0
"""Longer than any answer of the stand-in, also on a busy machine; nothing here waits until it is over."""


def attributes(card: str = APPROVED_CARD) -> VisaRequest:
    return card_attributes(PROFILE, IDENTITY, CardNumber(card))


def validation(card: str = APPROVED_CARD, expiry: str | None = "2031-12") -> VisaRequest:
    return card_validation(PROFILE, IDENTITY, CardNumber(card), card_expiry=expiry)


def alias(value: str = "rosalind@example.com") -> VisaRequest:
    return alias_resolution(Secret(value), business_application_id="FD")


def rate(product: Any = "A", target: str = "GBP") -> VisaRequest:
    return rate_quote(
        product, amount="25.00", source_currency="USD", target_currency=target, profile=PROFILE,
        initiating_party_id=PARTY,
    )  # fmt: skip


def account(life: str = "DELIVER", quote_id: str | None = None) -> VisaRequest:
    return validate_payout(
        AccountProfile(initiating_party_id=PARTY),
        payout_id="payout-0001",
        client_reference_id="V7000007",
        amount="25.00",
        currency="USD",
        sender=Party(name="Payouts Inc", country_code="US"),
        recipient=Party(name="Maria Example"),
        destination=BankAccount(
            account_number=Secret(f"TEST{life}1"), bank_code="021000021", country="US", currency="USD"
        ),
        quote_id=quote_id,
    )


def judge_attributes(exchange: Exchange) -> Judged:
    return outcome_of_card_attributes(exchange, application="FD", acquirer_country="840", crosses_border=False)


def judge_rate(exchange: Exchange) -> Judged:
    return outcome_of_rate(exchange, locked_rate="0.79", slippage_bps_max=100, now=datetime.now(UTC))


Question = tuple[Callable[[], VisaRequest], Callable[[Exchange], Judged]]
QUESTIONS: dict[str, Question] = {
    "attributes": (attributes, judge_attributes),
    "validation": (validation, outcome_of_card_validation),
    "alias": (alias, outcome_of_alias),
    "rates": (rate, judge_rate),
    "account_validate": (account, outcome_of_account_validation),
}
UNDER_FAULT: dict[str, InquiryVerdict] = {
    "slow": PASSED,
    "every_field": PASSED,
    "rate_moved": REFUSED,
    "quote_expired": PASSED,
}
"""Whatever else happens to a question, nobody has said yes. A rate that we ask for has no quote that could be over."""


@pytest.fixture
async def ours(visa: VisaClient) -> AsyncIterator[VisaDirectClient]:
    async with client_of(visa) as client:
        yield client


async def put(ours: VisaDirectClient, request: VisaRequest, judge: Callable[[Exchange], Judged]) -> Judged:
    return judge(await ours.send(request, Deadline.after(LIMIT_SECONDS)))


@pytest.mark.parametrize("operation", QUESTIONS)
async def test_b3_each_question_is_understood_and_answered(
    ours: VisaDirectClient, visa: VisaClient, operation: str
) -> None:
    """B3, S1: and nothing has moved; what carries numbers carries those it was given."""
    build, judge = QUESTIONS[operation]
    judged = await put(ours, build(), judge)
    assert (judged.verdict, judged.http_status) == (PASSED, 200)
    assert judged.visa_correlation_id
    assert await visa.entries() == []
    (logged,) = await visa.requests()
    assert logged["operation"] == operation
    if operation in ("attributes", "validation"):
        assert (logged["stan"], logged["rrn"]) == (
            str(IDENTITY.systems_trace_audit_number),
            IDENTITY.retrieval_reference_number,
        )


@pytest.mark.parametrize(
    ("request_", "judge", "reason"),
    [
        (attributes(NO_PUSHES), judge_attributes, "CARD_NOT_ELIGIBLE"),
        (attributes("1111111111111111"), judge_attributes, "CARD_NOT_FOUND"),
        (validation("4000000000000507"), outcome_of_card_validation, "CARD_NOT_VALID"),
        (validation(expiry="2020-10"), outcome_of_card_validation, "CARD_NOT_VALID"),
        (alias("nobody@example.com"), outcome_of_alias, "ALIAS_NOT_FOUND"),
        (account("REFUSED"), outcome_of_account_validation, "ACCOUNT_NOT_VALID"),
        (account(quote_id=f"Q1000000000-{'0' * 16}"), outcome_of_account_validation, "QUOTE_EXPIRED"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_b3_a_refusal_for_good_is_recognised(
    ours: VisaDirectClient, request_: VisaRequest, judge: Callable[[Exchange], Judged], reason: str
) -> None:
    judged = await put(ours, request_, judge)
    assert (judged.verdict, judged.reason_code) == (REFUSED, reason)


@pytest.mark.parametrize(
    ("request_", "judge"),
    [
        (validation("4000000000009102"), outcome_of_card_validation),
        (validation("4000000000009607"), outcome_of_card_validation),
        (rate(target="XOF"), judge_rate),
    ],
)
async def test_b3_what_says_neither_yes_nor_no_ends_nothing(
    ours: VisaDirectClient, request_: VisaRequest, judge: Callable[[Exchange], Judged]
) -> None:
    assert (await put(ours, request_, judge)).verdict is LATER


async def test_b4_an_alias_becomes_its_card(ours: VisaDirectClient) -> None:
    assert (await put(ours, alias(), outcome_of_alias)).card == CardNumber("4957030420210454")


async def test_b8_rates_of_every_rail_agree(ours: VisaDirectClient) -> None:
    """B8: text for cards, numbers for accounts and wallets."""
    for product in ("A", "BANK", "WALLET"):
        assert (await put(ours, rate(product), judge_rate)).reason_code == "FX_RATE_WITHIN_BOUND"


@pytest.mark.parametrize("operation", QUESTIONS)
async def test_b3_nothing_passes_under_a_fault(ours: VisaDirectClient, visa: VisaClient, operation: str) -> None:
    """B3, S2-01: each fault of each question: only a complete answer that says yes lets a payout pass."""
    build, judge = QUESTIONS[operation]
    faults = [name for name, fault in FAULTS.items() if operation in fault.operations]
    assert len(faults) > 10
    for fault in faults:
        brief = {"seconds": 0.2} if "slow" in fault or "silence" in fault else {}
        await plan(visa, fault, operation, **brief)
        judged = await put(ours, build(), judge)
        assert (fault, judged.verdict) == (fault, UNDER_FAULT.get(fault, LATER))
        assert (judged.outcome is not None) is (judged.verdict is LATER)
    assert await visa.entries() == []
