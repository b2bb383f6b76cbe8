"""Makes one call to Visa for a row: builds or repeats the request, sends it under the deadline, judges the exchange."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from ledger.interface import Ledger
from processors.money import MoneyError, decimal_string
from processors.payout.events import CallKind, Inquired, NewIdentity
from processors.payout.outcome import Outcome
from processors.payout.row import DestinationKind, PayoutRow
from processors.personal_data import Address, BankAccount, Card, PersonalData, Wallet
from processors.personal_data import Party as PersonalParty
from processors.secrets import CardNumber, Secret
from processors.validation.opened import OpenedRequest
from processors.validation.request import AftFunding, PayoutRequest
from processors.visa import outcome as judge
from processors.visa.account_outcome import outcome_of_payout, outcome_of_payout_query
from processors.visa.account_payouts import AccountProfile, payout_query, send_payout, send_payout_again
from processors.visa.correlation import RequestIds
from processors.visa.deadline import Deadline, boottime_seconds
from processors.visa.exchange import Exchange
from processors.visa.fields import RequestInvalid
from processors.visa.identity import Identity, identity_from_sequence
from processors.visa.requests import (
    FundingTransaction,
    Party,
    Recipient,
    SubmissionProfile,
    TokenReference,
    VisaRequest,
    adjust_funds,
    adjust_funds_again,
    push_funds,
    push_funds_again,
    reverse_funds,
    reverse_funds_again,
    status,
    transaction_query,
)
from streams import visa_errors
from streams.call_spans import call_span, say_outcome
from streams.clock import Clock
from streams.keys import Keys
from streams.metrics import Metrics
from streams.payout_counts import count_exchange, count_outcome
from streams.preflight import PayoutRefused, PreflightChecks, Question, Subject
from streams.stages import StageRunner
from streams.visa_client import VisaClient
from streams.visa_pause import Lane, Turn, VisaPauses
from streams.visa_rate import Place, VisaRate

log = logging.getLogger(__name__)

SLOW_CALL_SECONDS = 5.0
"""From where on a call is told by itself (S2-24): what the alert about their 95th percentile calls slow (F-03)."""
BODY_PURPOSE = "submission_body"
ACCOUNT_PURPOSE = "account_submission_body"
"""Its own, so that neither rail ever opens, and sends, what was made for the other."""
REVERSAL_PURPOSE = "reversal_body"
ADJUSTMENT_PURPOSE = "adjustment_body"
LEASE_MARGIN_SECONDS = 1.0
"""The call's deadline is this much shorter than its lease: the database's clock may run a little faster than ours."""


class CallNotBuildable(Exception):
    """The request cannot be expressed at Visa; nothing was sent. The message names a field, never a value."""

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call ready to be begun: the request, and what its first intent fixes."""

    request: VisaRequest
    identity: NewIdentity | None = None
    sealed_body: bytes | None = None
    expected_money: tuple[str, str] | None = None
    """Decimal text and currency that a query's rows, or any answer about an account payout, must show."""
    traced: Identity | FundingTransaction | None = None
    """Whose numbers a query asked for: rows that carry others are noticed."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A place among the calls in flight with its token, and the lane's turn."""

    lane: Lane
    turn: Turn
    place: Place
    waited: bool
    """The lane was paused, or the rate held the call back: what was read before may be hours old."""


class VisaCalls:
    """The only way from a row to Visa. One pooled client a worker."""

    def __init__(
        self,
        client: VisaClient,
        ledger: Ledger,
        stages: StageRunner,
        *,
        profile: SubmissionProfile,
        accounts: AccountProfile | None = None,
        keys: Keys,
        pauses: VisaPauses,
        calls_max: int,
        clock: Clock,
        metrics: Metrics,
        rate: VisaRate | None = None,
        request_ids: RequestIds | None = None,
        boottime: Callable[[], float] = boottime_seconds,
    ) -> None:
        """`boottime` counts seconds that a suspend does not stop (rule L3); `rate` without it places only.

        `accounts` None: only the card rail.
        """
        self._boottime = boottime
        self._client = client
        self._ledger = ledger
        self._stages = stages
        self._profile = profile
        self._accounts = accounts
        self._sealer = keys.sealer
        self.pauses = pauses
        self.rate = rate or VisaRate(calls_max=calls_max, metrics=metrics)
        self._clock = clock
        self._metrics = metrics
        self._request_ids = request_ids or RequestIds()
        self.preflight = PreflightChecks(
            client,
            ledger,
            profile=profile,
            accounts=accounts,
            clock=clock,
            boottime=boottime,
            metrics=metrics,
            request_ids=self._request_ids,
        )

    @asynccontextmanager
    async def permit(
        self, call: CallKind | Question, originator_id: str, *, patient: bool
    ) -> AsyncIterator[Permit | None]:
        """A place among the calls in flight and a token of the rate, taken before the lease (rule S7).

        Everybody waits for these, in the turn of his originator. While this kind of call is paused a patient caller
        waits for it; another gets None at once, as does everybody when the worker stops.
        """
        lane = self.pauses.preflight if isinstance(call, Question) else self.pauses.lane(call)
        waited = False
        while True:
            if lane.may_enter:
                async with self.rate.place(originator_id) as place:
                    if place is None:
                        yield None
                        return
                    turn = lane.enter()
                    if turn is not None:
                        try:
                            yield Permit(lane, turn, place, waited or place.is_stale)
                        finally:
                            lane.leave(turn)
                        return
            waited = True  # outside: who waits for a lane takes neither place nor token from a call of another
            if not (patient and await lane.wait()):
                yield None
                return

    def deadline(self, lease_seconds: float) -> Deadline:
        """Counted from before the lease statement is sent (rule L3)."""
        return Deadline.after(lease_seconds - LEASE_MARGIN_SECONDS, clock=self._boottime)

    async def open_question(self, row: PayoutRow) -> Question | None:
        """What its corridor's policy wants to be asked before the first intent (B3). Raises CallNotBuildable."""
        with _as_not_buildable():
            if not self._is_asked_about(row):
                return None
            return self.preflight.open_question(self._subject(row, *await self._stages.open(row, again_soon=True)))

    async def ask(
        self, row: PayoutRow, question: Question, request: VisaRequest, deadline: Deadline, permit: Permit
    ) -> Inquired:
        """Send a question and judge what it has proven. Never raises for what the network or Visa does."""
        permit.place.used = True
        judged = await self.preflight.ask(row, question, request, deadline)
        if judged.outcome is None:
            self.rate.served()
            permit.lane.served(permit.turn)
            return self.preflight.conclude(question, judged, None)
        self.rate.learn(judged.outcome)
        return self.preflight.conclude(question, judged, permit.lane.conclude(permit.turn, judged.outcome))

    @property
    def policy_version(self) -> str:
        """The policy that asks for the questions."""
        return self._stages.policy_version

    async def prepare(self, row: PayoutRow, call: CallKind, *, first: bool) -> Prepared:
        """Build the request; the first intent takes its number from the sequence.

        Raises CallNotBuildable, and PreflightOpen when something must be asked (again) before a first intent.
        """
        with _as_not_buildable():
            match call:
                case CallKind.PUSH:
                    return await self._first_push(row) if first else self._push_again(row)
                case CallKind.STATUS:
                    return Prepared(self._status(row))
                case CallKind.QUERY:
                    identity = _identity(row)
                    return Prepared(self._query(identity), expected_money=_money(row), traced=identity)
                case CallKind.ACCOUNT_SEND:
                    return await self._first_account_send(row) if first else self._account_send_again(row)
                case CallKind.ACCOUNT_QUERY:
                    return self._account_query(row)
                case CallKind.REVERSE:
                    return await self._reverse(row)
                case CallKind.REVERSAL_QUERY:
                    return await self._reversal_query(row)
                case CallKind.ADJUST:
                    return await self._adjust(row)
                case CallKind.ADJUSTMENT_QUERY:
                    return await self._adjustment_query(row)

    async def make(
        self, row: PayoutRow, call: CallKind, prepared: Prepared, deadline: Deadline, permit: Permit
    ) -> Outcome:
        """Send and judge. Never raises for what the network or Visa does."""
        begun = time.monotonic()
        request_id = self._request_ids.of(row)
        permit.place.used = True
        with call_span(row, call, prepared.request, request_id) as span:
            with self._metrics.calls_in_flight.track_inprogress():
                exchange = await self._client.send(replace(prepared.request, correlation_id=request_id), deadline)
            outcome = _judge(row, call, prepared, exchange)
            named = visa_errors.named(self._metrics, row, outcome)
            say_outcome(span, outcome, named)
        self.rate.learn(outcome)
        took_seconds = time.monotonic() - begun
        count_exchange(self._metrics, call.value, exchange, took_seconds)
        count_outcome(self._metrics, call, outcome)
        visa_errors.count_retry(self._metrics, row, call, outcome)
        if took_seconds >= SLOW_CALL_SECONDS:
            log.warning(
                "slow call",
                extra={
                    "payout_id": row.payout_id,
                    "correlation_id": row.correlation_id,
                    "request_id": request_id,
                    "call": call.value,
                    "seconds": round(took_seconds, 3),
                },
            )
        log.info(
            "visa call",
            extra={
                "payout_id": row.payout_id,
                "correlation_id": row.correlation_id,
                "request_id": request_id,
                "call": call.value,
                "attempt": row.attempts,
                "outcome": outcome.kind.value,
                "reason_code": outcome.reason_code,
                "http_status": outcome.http_status,
                "visa_correlation_id": outcome.visa_correlation_id,
                **named,
            },
        )
        return permit.lane.conclude(permit.turn, outcome)

    async def close(self) -> None:
        """Close the client's connections."""
        await self._client.aclose()

    async def _first_push(self, row: PayoutRow) -> Prepared:
        request, opened = await self._stages.open(row)
        resolved = self._asked(row, request, opened)
        number = await self._ledger.issue_identity_number()
        identity = identity_from_sequence(number, self._clock())
        built = _push(self._profile, identity, row, request, opened, resolved)
        body = _body(built)
        return Prepared(built, _new_identity(number, identity), self._sealer.seal(body, BODY_PURPOSE, row.payout_id))

    def _asked(self, row: PayoutRow, request: PayoutRequest, opened: OpenedRequest) -> CardNumber | None:
        """The last look before an intent: nothing is open, and an alias's card is known. Raises PreflightOpen."""
        if not self._is_asked_about(row):
            return None
        return self.preflight.resolved_card(self._subject(row, request, opened))

    def _is_asked_about(self, row: PayoutRow) -> bool:
        """Raises PayoutRefused where no policy says any more what has to be asked: then nothing is sent."""
        rules = self._stages.rules_for(row)
        if rules is None:
            raise PayoutRefused("CORRIDOR_UNKNOWN", "the corridor was served when it was accepted, and is no longer")
        by_policy = bool(rules.preflight) or rules.slippage_bps_max is not None
        return by_policy or row.destination_kind is DestinationKind.ALIAS

    def _subject(self, row: PayoutRow, request: PayoutRequest, opened: OpenedRequest) -> Subject:
        personal = opened.personal if isinstance(opened.personal, PersonalData) else None
        return Subject(
            row,
            request,
            opened,
            self._stages.rules_for(row),
            sender=None if personal is None else _party(personal.sender, request.corridor.source_country),
            recipient=None if personal is None else _party(personal.recipient, request.corridor.target_country),
        )

    def _push_again(self, row: PayoutRow) -> Prepared:
        """S3: what is sent again is the same plaintext under the same identity."""
        if row.sealed_body is None:
            raise CallNotBuildable("BODY_MISSING", "an intent without its body: the row is damaged")
        body = self._sealer.open(row.sealed_body, BODY_PURPOSE, row.payout_id)
        again = push_funds_again(body, payout_id=row.payout_id, paths=self._profile.paths)
        return Prepared(again)

    async def _first_account_send(self, row: PayoutRow) -> Prepared:
        """The reference is the row's, fixed before any intent; numbers are taken as for a card, unsent (S1)."""
        request, opened = await self._stages.open(row)
        self._asked(row, request, opened)
        number = await self._ledger.issue_identity_number()
        identity = identity_from_sequence(number, self._clock())
        built = _account_send(self._account_profile(), row, request, opened)
        sealed = self._sealer.seal(_body(built), ACCOUNT_PURPOSE, row.payout_id)
        return Prepared(built, _new_identity(number, identity), sealed, expected_money=_money(row))

    def _account_send_again(self, row: PayoutRow) -> Prepared:
        """S3: only where every earlier attempt was refused; that is the row's to know, not ours."""
        if row.sealed_body is None:
            raise CallNotBuildable("BODY_MISSING", "an intent without its body: the row is damaged")
        body = self._sealer.open(row.sealed_body, ACCOUNT_PURPOSE, row.payout_id)
        again = send_payout_again(body, payout_id=row.payout_id, paths=self._account_profile().paths)
        return Prepared(again, expected_money=_money(row))

    def _account_query(self, row: PayoutRow) -> Prepared:
        profile = self._account_profile()
        asked = payout_query(row.sender_reference, profile.initiating_party_id, paths=profile.paths)
        return Prepared(asked, expected_money=_money(row))

    def _account_profile(self) -> AccountProfile:
        if self._accounts is None:
            raise CallNotBuildable("ACCOUNT_RAIL_NOT_CONFIGURED", "VISA_INITIATING_PARTY_ID is not set in this worker")
        return self._accounts

    def _status(self, row: PayoutRow) -> VisaRequest:
        if row.status_identifier is None:
            raise CallNotBuildable("STATUS_IDENTIFIER_MISSING", "a status question needs the identifier Visa gave")
        return status(row.status_identifier, paths=self._profile.paths)

    def _query(self, identity: Identity) -> VisaRequest:
        return transaction_query(identity, self._profile.acquiring_bin, paths=self._profile.paths)

    async def _reverse(self, row: PayoutRow) -> Prepared:
        if row.compensation_sealed_body is not None:
            body = self._sealer.open(row.compensation_sealed_body, REVERSAL_PURPOSE, row.payout_id)
            again = reverse_funds_again(body, payout_id=row.payout_id, paths=self._profile.paths)
            return Prepared(again)
        pull = await self._pull(row)
        built = reverse_funds(
            self._profile,
            pull.funding,
            payout_id=row.payout_id,
            amount=pull.amount,
            currency=pull.currency,
            sender_card=pull.card,
            first_intent_at=self._clock(),
        )
        return Prepared(built, None, self._sealer.seal(_body(built), REVERSAL_PURPOSE, row.payout_id))

    async def _reversal_query(self, row: PayoutRow) -> Prepared:
        pull = await self._pull(row)
        return self._hand_back_query(pull, pull.funding)

    async def _adjust(self, row: PayoutRow) -> Prepared:
        if row.compensation_sealed_body is not None:
            body = self._sealer.open(row.compensation_sealed_body, ADJUSTMENT_PURPOSE, row.payout_id)
            again = adjust_funds_again(body, payout_id=row.payout_id, paths=self._profile.paths)
            return Prepared(again)
        pull = await self._pull(row)
        number, identity = await self._identity_unlike(pull.funding)
        built = adjust_funds(
            self._profile,
            identity,
            pull.funding,
            payout_id=row.payout_id,
            amount=pull.amount,
            currency=pull.currency,
            sender_card=pull.card,
            sender_reference=row.sender_reference,
        )
        sealed = self._sealer.seal(_body(built), ADJUSTMENT_PURPOSE, row.payout_id)
        return Prepared(built, _new_identity(number, identity), sealed)

    async def _adjustment_query(self, row: PayoutRow) -> Prepared:
        return self._hand_back_query(await self._pull(row), _adjustment_identity(row))

    def _hand_back_query(self, pull: "_Pull", traced: Identity | FundingTransaction) -> Prepared:
        asked = transaction_query(traced, pull.funding.acquiring_bin, paths=self._profile.paths)
        return Prepared(asked, expected_money=(pull.amount, pull.currency), traced=traced)

    async def _identity_unlike(self, funding: FundingTransaction) -> tuple[int, Identity]:
        """The next number; one more where its STAN happens to be the pull's, which an adjustment must not repeat."""
        while True:
            number = await self._ledger.issue_identity_number()
            identity = identity_from_sequence(number, self._clock())
            if identity.systems_trace_audit_number != funding.systems_trace_audit_number:
                return number, identity

    async def _pull(self, row: PayoutRow) -> "_Pull":
        request, opened = await self._stages.open(row)
        funding = _funding_transaction(request.funding.aft)
        card, aft = opened.funding_card, request.funding.aft
        if not isinstance(card, Card) or aft is None or aft.amount is None:
            raise CallNotBuildable("REVERSAL_FACTS_MISSING", "the card pull lacks its card or amount")
        amount = decimal_string(aft.amount.amount_minor, aft.amount.currency)
        return _Pull(funding, card.number, amount, aft.amount.currency)


@dataclass(frozen=True, slots=True)
class _Pull:
    """The card pull that funded a payout, as far as handing it back must repeat it."""

    funding: FundingTransaction
    card: CardNumber
    amount: str
    currency: str


def _judge(row: PayoutRow, call: CallKind, prepared: Prepared, exchange: Exchange) -> Outcome:
    amount, currency = prepared.expected_money or ("0", row.currency)
    match call:
        case CallKind.PUSH:
            return judge.outcome_of_push(exchange)
        case CallKind.STATUS:
            return judge.outcome_of_status(exchange, row.status_identifier)
        case CallKind.QUERY:
            return judge.outcome_of_query(exchange, amount, currency, transaction=prepared.traced)
        case CallKind.ACCOUNT_SEND:
            return outcome_of_payout(exchange, amount, currency, row.sender_reference)
        case CallKind.ACCOUNT_QUERY:
            return outcome_of_payout_query(exchange, amount, currency, row.sender_reference)
        case CallKind.REVERSE:
            return judge.outcome_of_reversal(exchange)
        case CallKind.REVERSAL_QUERY:
            return judge.outcome_of_reversal_query(exchange, amount, currency, transaction=prepared.traced)
        case CallKind.ADJUST:
            return judge.outcome_of_adjustment(exchange)
        case CallKind.ADJUSTMENT_QUERY:
            return judge.outcome_of_adjustment_query(exchange, amount, currency, transaction=prepared.traced)


@contextmanager
def _as_not_buildable() -> Iterator[None]:
    try:
        yield
    except RequestInvalid as error:
        raise CallNotBuildable("REQUEST_NOT_BUILDABLE", str(error)) from None
    except MoneyError as error:
        raise CallNotBuildable("AMOUNT_NOT_EXPRESSIBLE", str(error)) from None
    except PayoutRefused as error:
        raise CallNotBuildable(error.reason_code, str(error)) from None


def _push(
    profile: SubmissionProfile,
    identity: Identity,
    row: PayoutRow,
    request: PayoutRequest,
    opened: OpenedRequest,
    resolved: CardNumber | None,
) -> VisaRequest:
    personal = opened.personal
    if not isinstance(personal, PersonalData):
        raise CallNotBuildable("PERSONAL_DATA_UNREADABLE", "the parties cannot be opened any more: were keys removed?")
    destination = request.destination.card
    credential: CardNumber | TokenReference
    expiry: str | None = None
    token = False  # a token's expiry is kept with the token, so the rule for U.S. issuers does not ask for it here
    if row.destination_kind is DestinationKind.ALIAS:
        if resolved is None:
            raise CallNotBuildable("ALIAS_UNREADABLE", "the alias cannot be opened any more: were keys removed?")
        credential, token = resolved, True  # the directory knows no expiry either
    elif isinstance(opened.destination_card, Card):
        credential, expiry = opened.destination_card.number, opened.destination_card.expiry
    elif destination is not None and destination.token_reference is not None:
        credential, token = TokenReference(value=Secret(destination.token_reference)), True
    else:
        raise CallNotBuildable("CARD_UNREADABLE", "the destination has neither a readable card nor a token reference")
    return push_funds(
        profile,
        identity,
        payout_id=row.payout_id,
        amount=decimal_string(row.amount_minor, row.currency),
        currency=row.currency,
        sender=_party(personal.sender, request.corridor.source_country),
        recipient=Recipient(
            party=_party(personal.recipient, request.corridor.target_country),
            card=credential,
            card_expiry=expiry,
            card_issuer_country_code=None if token else request.corridor.target_country,
        ),
        sender_reference=row.sender_reference,
        purpose_of_payment=request.purpose,
        business_application_id=request.business_application_id,
        funding_transaction_identifier=request.funding.aft.transaction_identifier if request.funding.aft else None,
    )


def _account_send(
    profile: AccountProfile, row: PayoutRow, request: PayoutRequest, opened: OpenedRequest
) -> VisaRequest:
    personal, account = opened.personal, opened.destination_account
    if not isinstance(personal, PersonalData):
        raise CallNotBuildable("PERSONAL_DATA_UNREADABLE", "the parties cannot be opened any more: were keys removed?")
    if not isinstance(account, BankAccount | Wallet) or request.destination.kind is not row.destination_kind:
        raise CallNotBuildable("ACCOUNT_UNREADABLE", "the destination has no readable account of the row's kind")
    return send_payout(
        profile,
        payout_id=row.payout_id,
        client_reference_id=row.sender_reference,
        amount=decimal_string(row.amount_minor, row.currency),
        currency=row.currency,
        sender=_party(personal.sender, request.corridor.source_country),
        recipient=_party(personal.recipient, request.corridor.target_country),
        destination=account,
        quote_id=request.fx_quote.quote_id if request.fx_quote else None,
        business_application_id=request.business_application_id,
        purpose_of_payment=request.purpose,
    )


def _money(row: PayoutRow) -> tuple[str, str]:
    return decimal_string(row.amount_minor, row.currency), row.currency


def _identity(row: PayoutRow) -> Identity:
    if row.identity_number is None or row.first_intent_at is None:
        raise CallNotBuildable("IDENTITY_MISSING", "a query needs the identity of the first intent")
    return identity_from_sequence(row.identity_number, row.first_intent_at)


def _adjustment_identity(row: PayoutRow) -> Identity:
    number, first_intent_at = row.compensation_identity_number, row.compensation_first_intent_at
    if number is None or first_intent_at is None:
        raise CallNotBuildable("IDENTITY_MISSING", "a query needs the identity of the adjustment's first intent")
    return identity_from_sequence(number, first_intent_at)


def _new_identity(number: int, identity: Identity) -> NewIdentity:
    return NewIdentity(
        number, identity.systems_trace_audit_number, identity.retrieval_reference_number, identity.first_intent_at
    )


def _body(request: VisaRequest) -> bytes:
    if request.body is None:
        raise CallNotBuildable("BODY_MISSING", "a call that moves money needs a body")
    return request.body


def _party(person: PersonalParty, country: str) -> Party:
    """Our party as Visa's: a missing address says at least the corridor's country."""
    address = person.address or Address()
    return Party(
        name=person.name,
        first_name=person.first_name,
        last_name=person.last_name,
        address_line=address.line1,
        city=address.city,
        state_code=address.state,
        postal_code=address.postal_code,
        country_code=address.country or country,
    )


def _funding_transaction(aft: AftFunding | None) -> FundingTransaction:
    if (
        aft is None
        or aft.systems_trace_audit_number is None
        or aft.retrieval_reference_number is None
        or aft.transaction_identifier is None
        or aft.approval_code is None
        or aft.acquiring_bin is None
        or aft.captured_at is None
    ):
        raise CallNotBuildable("REVERSAL_FACTS_MISSING", "the card pull lacks a fact that its reversal must repeat")
    return FundingTransaction(
        systems_trace_audit_number=aft.systems_trace_audit_number,
        retrieval_reference_number=aft.retrieval_reference_number,
        transaction_identifier=aft.transaction_identifier,
        approval_code=aft.approval_code,
        acquiring_bin=aft.acquiring_bin,
        captured_at=aft.captured_at,
    )
