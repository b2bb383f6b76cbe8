"""Our account rail against the stand-in: builders, transport and outcome tree; what each answer proves (S3, S8)."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.personal_data import BankAccount, Wallet
from processors.secrets import Secret
from processors.visa.account_outcome import outcome_of_payout, outcome_of_payout_query
from processors.visa.account_payouts import (
    AccountProfile,
    cancel_payout,
    payout_query,
    send_payout,
    send_payout_again,
    validate_payout,
)
from processors.visa.deadline import Deadline
from processors.visa.exchange import Answered
from processors.visa.requests import Party, VisaRequest
from processors.visa.transport import VisaDirectClient
from sandbox.visa_direct.faults import FAULTS
from tests.contract.visa_direct.conftest import Clock
from tests.contract.visa_direct.test_visa_direct_our_client import AFTER_SUBMISSION, client_of
from tests.contract.visa_direct.visa_direct_client import PARTY, VisaClient, eventually

PAID, DECLINED, RETURNED = OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.RETURNED
PENDING, UNKNOWN, NOT_FOUND = OutcomeKind.PENDING, OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND
REFUSED, OPERATOR = OutcomeKind.REFUSED, OutcomeKind.OPERATOR

PLENTY_SECONDS = 30.0
REFERENCE = "PAAAABBBBCCCC234"
PROFILE = AccountProfile(initiating_party_id=PARTY)
SENDER = Party(name="Payouts Inc", address_line="1 Market St", city="Foster City", country_code="US")
RECIPIENT = Party(name="Maria Example")
MONEY = ("25.50", "USD")
WALLET = Wallet(account_number=Secret("+254700000001"), operator_name="M-PESA", country="KE", currency="KES")


def _account(life: str) -> BankAccount:
    return BankAccount(account_number=Secret(f"TEST{life}1"), bank_code="021000021", country="US", currency="USD")


def _send(destination: BankAccount | Wallet) -> VisaRequest:
    return send_payout(
        PROFILE,
        payout_id="payout-0001",
        client_reference_id=REFERENCE,
        amount=MONEY[0],
        currency=MONEY[1],
        sender=SENDER,
        recipient=RECIPIENT,
        destination=destination,
    )


class Ours:
    """The product's client, and the stand-in it speaks to."""

    def __init__(self, visa: VisaClient, client: VisaDirectClient, clock: Clock) -> None:
        self.visa, self.client, self.clock = visa, client, clock

    async def send(self, destination: BankAccount | Wallet | None = None) -> Outcome:
        """One send, judged."""
        request = _send(destination or _account("PREMIUM"))
        exchange = await self.client.send(request, Deadline.after(PLENTY_SECONDS))
        return outcome_of_payout(exchange, *MONEY, REFERENCE)

    async def ask(self) -> Outcome:
        """One query, judged."""
        exchange = await self.client.send(payout_query(REFERENCE, PARTY), Deadline.after(PLENTY_SECONDS))
        return outcome_of_payout_query(exchange, *MONEY, REFERENCE)

    async def moved(self) -> int:
        """How often money moved."""
        return sum(entry["money_moved"] for entry in await self.visa.entries() if entry["operation"] == "account")

    async def lived(self) -> list[OutcomeKind]:
        """What a payout's query proves, status after status, each once."""
        told = []
        for _ in range(8):
            kind = (await self.ask()).kind
            if not told or told[-1] is not kind:
                told.append(kind)
            self.clock.ahead_seconds += 61.0
        return told


@pytest.fixture
async def ours(start: Callable[..., Awaitable[VisaClient]], clock: Clock) -> AsyncIterator[Ours]:
    visa = await start(accounts_pace_seconds=60)
    async with client_of(visa) as client:
        yield Ours(visa, client, clock)


@pytest.fixture
async def at_once(start: Callable[..., Awaitable[VisaClient]], clock: Clock) -> AsyncIterator[Ours]:
    visa = await start(accounts_pace_seconds=0)
    async with client_of(visa) as client:
        yield Ours(visa, client, clock)


@pytest.mark.parametrize(
    ("life", "told"),
    [
        ("DELIVER", [PENDING, PAID]),
        ("AWAIT", [PENDING, PAID]),
        ("STUCK", [PENDING]),
        ("REJECT", [PENDING, DECLINED]),
        ("RETURN", [PENDING, RETURNED]),
        ("RETURNLATE", [PENDING, PAID, RETURNED]),
        ("UNFUNDED", [PENDING]),
    ],
)
async def test_s8_a_query_proves_what_has_become_of_a_payout(ours: Ours, life: str, told: list[OutcomeKind]) -> None:
    """B4, S8: accepted is not delivered, unfunded is not declined, delivered may come back."""
    assert (await ours.send(_account(life))).kind is PENDING
    assert await ours.lived() == told


async def test_b4_a_wallet_is_paid_by_the_same_rail(at_once: Ours) -> None:
    assert (await at_once.send(WALLET)).kind is PAID
    assert (await at_once.ask()).kind is PAID
    assert await at_once.moved() == 1


async def test_s3_what_was_never_sent_is_not_found(ours: Ours) -> None:
    assert (await ours.ask()).kind is NOT_FOUND


@pytest.mark.parametrize("fault", sorted(AFTER_SUBMISSION))
async def test_what_a_send_has_proven_under_each_fault(at_once: Ours, fault: str) -> None:
    """S4, S3, P3: refused means that no money moved; what is unknown, one query finds, without a second send."""
    operation = "connect" if fault == "refuse_connections" else "account_send"
    more = {"seconds": 0.1} if fault in ("slow", "late_202") or "silence" in fault else {}
    await at_once.visa.faults({"operation": operation, "fault": fault} | more)
    outcome = await at_once.send()
    assert outcome.kind is AFTER_SUBMISSION[fault]
    if outcome.kind is REFUSED:
        assert (await at_once.moved(), outcome.systemic) == (0, fault != "400")
    await at_once.visa.faults()

    async def at_rest() -> bool:
        return not await at_once.visa.busy()

    at_once.clock.ahead_seconds += 1.0  # past the moment at which a 202 takes effect
    await eventually(at_rest)
    moved = await at_once.moved()
    assert moved <= 1
    assert (await at_once.ask()).kind is (PAID if moved else NOT_FOUND)


def test_every_fault_of_a_send_is_judged_here() -> None:
    """A fault that this table does not know would be one whose meaning nobody has decided."""
    assert AFTER_SUBMISSION.keys() == {
        name for name, fault in FAULTS.items() if fault.operations & {"account_send", "connect"}
    }


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("account_status_first", PENDING),
        ("account_status_unknown", OPERATOR),
        ("query_not_found", NOT_FOUND),
        ("query_lag", NOT_FOUND),
        ("503", UNKNOWN),
        ("429", REFUSED),
        ("undecryptable_body", UNKNOWN),
    ],
)
async def test_what_a_query_has_proven_under_a_fault(at_once: Ours, fault: str, kind: OutcomeKind) -> None:
    """S5, P3: stale or silent, it never says that a paid payout was not paid."""
    assert (await at_once.send()).kind is PAID
    await at_once.visa.faults({"operation": "account_query", "fault": fault, "times": 1, "seconds": 3600})
    assert [(await at_once.ask()).kind for _ in range(2)] == [kind, PAID]


async def test_s3_a_second_send_pays_twice_and_the_query_says_so(at_once: Ours) -> None:
    """Why it is never sent again: nothing at Visa keeps it from being a second payment."""
    assert [(await at_once.send()).kind for _ in range(2)] == [PAID, PAID]
    assert await at_once.moved() == 2
    asked = await at_once.ask()
    assert (asked.kind, asked.reason_code) == (OPERATOR, "TWO_PAYOUTS_UNDER_ONE_REFERENCE")


async def test_s4_a_refused_send_comes_again_from_its_persisted_body(at_once: Ours) -> None:
    """S4: 429 moved nothing; the same bytes then move the money once."""
    await at_once.visa.faults({"operation": "account_send", "fault": "429", "times": 1})
    outcome = await at_once.send()
    assert (outcome.refusal, await at_once.moved()) == (Refusal.RATE_LIMITED, 0)
    body = _send(_account("PREMIUM")).body
    assert body is not None
    exchange = await at_once.client.send(
        send_payout_again(body, payout_id="payout-0001"), Deadline.after(PLENTY_SECONDS)
    )
    assert outcome_of_payout(exchange, *MONEY, REFERENCE).kind is PAID
    assert await at_once.moved() == 1


async def test_b4_an_account_that_is_none_is_refused_by_its_code(at_once: Ours) -> None:
    outcome = await at_once.send(_account("REFUSED"))
    assert (outcome.kind, outcome.refusal, outcome.reason_code) == (REFUSED, Refusal.REQUEST_INVALID, "HTTP_400_4100")
    assert await at_once.moved() == 0


async def test_b4_a_cancelled_payout_is_not_paid_as_its_query_says(ours: Ours) -> None:
    """S5: the answer to the cancellation proves nothing; the query does."""
    assert (await ours.send(_account("ASKED"))).kind is PENDING
    cancel = cancel_payout(REFERENCE, PARTY, payout_id="payout-0001")
    exchange = await ours.client.send(cancel, Deadline.after(PLENTY_SECONDS))
    assert isinstance(exchange, Answered)
    assert exchange.status == 200
    told = await ours.lived()
    assert told[-1] is DECLINED
    assert set(told) <= {PENDING, DECLINED}
    assert await ours.moved() == 0


async def test_b4_a_validation_moves_nothing_and_uses_no_reference_up(at_once: Ours) -> None:
    checked = validate_payout(
        PROFILE,
        payout_id="payout-0001",
        client_reference_id="VAAAABBBBCCCC234",
        amount=MONEY[0],
        currency=MONEY[1],
        sender=SENDER,
        recipient=RECIPIENT,
        destination=_account("PREMIUM"),
    )
    exchange = await at_once.client.send(checked, Deadline.after(PLENTY_SECONDS))
    assert isinstance(exchange, Answered)
    assert exchange.status == 200
    assert (await at_once.ask()).kind is NOT_FOUND
    assert await at_once.moved() == 0
