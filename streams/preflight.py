"""What is asked before a payout's first intent, by the corridor's policy (requirement B3): one question at a time.

    alias          which card?                        every payout to an alias
    attributes     does it take such a push?          policy `preflight.cardAttributes`; cards by number
    validation     would the issuer decline?          policy `preflight.cardValidation`; cards by number
    account        could it be sent?                  policy `preflight.accountValidation`; accounts and wallets
    rate           how far is it from the locked one? policy `fx.slippageBpsMax`; requests with a quote

`Driver` asks until nothing is open: permit in the lane PREFLIGHT, lease, call, commit, like any call (rules L3, L9,
S7). What passed is remembered for a minute by `AnswerCache`, and read once more when the first intent is prepared; an
alias's card then stands in the sealed body, so it is never resolved again (rule S3).
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from ledger.interface import Ledger
from processors.money import decimal_string
from processors.payout.events import Inquired, InquiryVerdict
from processors.payout.outcome import Outcome
from processors.payout.row import PayoutRow
from processors.personal_data import Alias, BankAccount, Card, Wallet
from processors.secrets import CardNumber
from processors.validation.opened import OpenedRequest
from processors.validation.policy import CorridorRules, Preflight
from processors.validation.request import PayoutRequest
from processors.visa.account_payouts import AccountProfile, validate_payout
from processors.visa.correlation import RequestIds
from processors.visa.deadline import Deadline
from processors.visa.exchange import Exchange
from processors.visa.identity import Identity, Operation, identity_from_sequence
from processors.visa.inquiry import RateProduct, alias_resolution, card_attributes, card_validation, rate_quote
from processors.visa.inquiry_cache import AnswerCache
from processors.visa.inquiry_outcome import (
    Judged,
    outcome_of_account_validation,
    outcome_of_alias,
    outcome_of_card_attributes,
    outcome_of_card_validation,
    outcome_of_rate,
)
from processors.visa.requests import Party, SubmissionProfile, VisaRequest
from streams import visa_errors
from streams.call_spans import question_span, say_answer, say_error
from streams.clock import Clock
from streams.metrics import Metrics
from streams.payout_counts import count_exchange
from streams.visa_client import VisaClient

log = logging.getLogger(__name__)

_NOBODYS: Final = identity_from_sequence(0, datetime(2026, 1, 1, tzinfo=UTC))
"""In place of a question's own numbers, where only what is asked matters: the key of its answer."""
UNDECRYPTABLE: Final = "REPLY_UNDECRYPTABLE"


class PreflightOpen(Exception):
    """The first intent may not be prepared yet: something has to be asked (again)."""


class PayoutRefused(Exception):
    """What the request itself says ends the payout; nothing is asked."""

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one payout. `build` takes the numbers that it is asked under."""

    operation: Operation
    key: bytes
    build: Callable[[Identity], VisaRequest]
    judge: Callable[[Exchange], Judged]

    @property
    def name(self) -> str:
        """As it stands in the history and in metrics."""
        return self.operation.value


@dataclass(frozen=True, slots=True)
class Subject:
    """The payout that questions are about, opened."""

    row: PayoutRow
    request: PayoutRequest
    opened: OpenedRequest
    rules: CorridorRules | None
    sender: Party | None
    recipient: Party | None


class PreflightChecks:
    """The questions of one worker, and the answers that it remembers."""

    def __init__(
        self,
        client: VisaClient,
        ledger: Ledger,
        *,
        profile: SubmissionProfile,
        accounts: AccountProfile | None,
        clock: Clock,
        boottime: Callable[[], float],
        metrics: Metrics,
        request_ids: RequestIds,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._profile = profile
        self._accounts = accounts
        self._clock = clock
        self._metrics = metrics
        self._request_ids = request_ids
        self._answers = AnswerCache(seconds=boottime, clock=clock)

    def forget_old(self) -> None:
        """To be called every second or so."""
        self._answers.forget_old()

    def open_question(self, subject: Subject) -> Question | None:
        """What has to be asked next; None when the first intent may follow.

        Raises PayoutRefused for a quote that is over, RequestInvalid and MoneyError for what cannot be asked.
        """
        self._check_quote(subject)
        return next((question for question in self._questions(subject) if not self._usable(question)), None)

    def resolved_card(self, subject: Subject) -> CardNumber | None:
        """The card of a payout to an alias. Raises PreflightOpen when anything is open, and as `open_question`."""
        self._check_quote(subject)
        # As long as an answer may be used at all: who waited for his turn to push must not begin anew for ever.
        if any(self._answers.valid(question.key) is None for question in self._questions(subject)):
            raise PreflightOpen
        alias = self._alias_question(subject)
        answer = None if alias is None else self._answers.valid(alias.key)
        return None if answer is None else answer.card

    async def prepare(self, question: Question) -> VisaRequest:
        """The request under numbers of its own (rule S1)."""
        number = await self._ledger.issue_identity_number()
        return question.build(identity_from_sequence(number, self._clock()))

    async def ask(self, row: PayoutRow, question: Question, request: VisaRequest, deadline: Deadline) -> Judged:
        """Send and judge. Never raises for what the network or Visa does."""
        begun = time.monotonic()
        request_id = self._request_ids.of(row)
        with question_span(question.name, request, request_id) as span:
            with self._metrics.calls_in_flight.track_inprogress():
                exchange = await self._client.send(replace(request, correlation_id=request_id), deadline)
            judged = question.judge(exchange)
            named = {} if judged.outcome is None else visa_errors.named(self._metrics, row, judged.outcome)
            say_answer(
                span,
                judged.verdict.value,
                judged.reason_code,
                http_status=judged.http_status,
                action_code=judged.action_code,
                visa_correlation_id=judged.visa_correlation_id,
            )
            if judged.outcome is not None:
                say_error(span, judged.outcome, named)
        count_exchange(self._metrics, question.name, exchange, time.monotonic() - begun)
        self._metrics.calls.labels(question.name.upper(), judged.verdict.value).inc()
        log.info(
            "visa question",
            extra={
                "payout_id": row.payout_id,
                "correlation_id": row.correlation_id,
                "request_id": request_id,
                "call": question.name.upper(),
                "outcome": judged.verdict.value,
                "reason_code": judged.reason_code,
                "http_status": judged.http_status,
                "visa_correlation_id": judged.visa_correlation_id,
                **named,
            },
        )
        return judged

    def conclude(self, question: Question, judged: Judged, outcome: Outcome | None) -> Inquired:
        """What its row learns, and what is remembered. `outcome` is the judged one as its lane took it."""
        verdict, reason_code = judged.verdict, judged.reason_code
        if verdict is InquiryVerdict.PASSED:
            self._answers.keep(question.key, valid_until=judged.valid_until, card=judged.card)
        elif not _nobody_answered(judged):
            self._answers.forget(question.key)
        elif self._answers.keep_without_answer(question.key):
            verdict, reason_code, outcome = InquiryVerdict.PASSED, "LAST_ANSWER_STILL_VALID", None
        if outcome is not None and outcome.reason_code == UNDECRYPTABLE:
            outcome = replace(outcome, systemic=True)  # a key of ours is wrong: no payout's own failure
        return Inquired(
            question.name,
            verdict,
            reason_code,
            outcome=outcome,
            http_status=judged.http_status,
            action_code=judged.action_code,
            visa_correlation_id=judged.visa_correlation_id,
        )

    # --- which questions ---

    def _usable(self, question: Question) -> bool:
        return self._answers.usable(question.key) is not None

    def _questions(self, subject: Subject) -> Iterator[Question]:
        """In their order; those about an alias's card only once it is known."""
        alias = self._alias_question(subject)
        resolved: CardNumber | None = None
        if alias is not None:
            yield alias
            answer = self._answers.valid(alias.key)
            if answer is None:
                return
            resolved = answer.card
        yield from self._card_questions(subject, resolved)
        yield from self._account_questions(subject)
        yield from self._rate_questions(subject)

    def _alias_question(self, subject: Subject) -> Question | None:
        alias = subject.opened.destination_account
        if not isinstance(alias, Alias):
            return None
        application = self._application(subject)

        def build(_: Identity) -> VisaRequest:
            return alias_resolution(alias.value, business_application_id=application)

        return self._question(build, outcome_of_alias)

    def _card_questions(self, subject: Subject, resolved: CardNumber | None) -> Iterator[Question]:
        card = Card(number=resolved) if resolved is not None else subject.opened.destination_card
        if not isinstance(card, Card) or subject.rules is None:
            return
        if Preflight.CARD_ATTRIBUTES in subject.rules.preflight:
            yield self._question(
                lambda identity: card_attributes(self._profile, identity, card.number),
                partial(
                    outcome_of_card_attributes,
                    application=self._application(subject),
                    acquirer_country=self._profile.acquirer_country_code,
                    crosses_border=subject.request.corridor.is_cross_border,
                ),
                self._application(subject).encode(),
            )
        if Preflight.CARD_VALIDATION in subject.rules.preflight:
            yield self._question(
                lambda identity: card_validation(self._profile, identity, card.number, card_expiry=card.expiry),
                outcome_of_card_validation,
            )

    def _account_questions(self, subject: Subject) -> Iterator[Question]:
        account, profile, row = subject.opened.destination_account, self._accounts, subject.row
        sender, recipient = subject.sender, subject.recipient
        if not isinstance(account, BankAccount | Wallet) or profile is None or sender is None or recipient is None:
            return
        if subject.rules is None or Preflight.ACCOUNT_VALIDATION not in subject.rules.preflight:
            return

        def build(identity: Identity) -> VisaRequest:
            return validate_payout(
                profile,
                payout_id=row.payout_id,
                client_reference_id=f"V{identity.number}",  # a payout's own begins with P
                amount=decimal_string(row.amount_minor, row.currency),
                currency=row.currency,
                sender=sender,
                recipient=recipient,
                destination=account,
                quote_id=subject.request.fx_quote.quote_id if subject.request.fx_quote else None,
                business_application_id=subject.request.business_application_id,
                purpose_of_payment=subject.request.purpose,
            )

        yield self._question(build, outcome_of_account_validation)

    def _rate_questions(self, subject: Subject) -> Iterator[Question]:
        quote, bound, row = subject.request.fx_quote, _slippage_bound(subject), subject.row
        if quote is None or bound is None:
            return
        products: dict[bool, RateProduct] = {True: "WALLET", False: "BANK"}
        product = products[isinstance(subject.opened.destination_account, Wallet)] if row.is_account_payout else "A"

        def build(_: Identity) -> VisaRequest:
            return rate_quote(
                product,
                amount=decimal_string(row.amount_minor, row.currency),
                source_currency=row.currency,
                target_currency=row.target_currency,
                profile=self._profile,
                initiating_party_id=None if self._accounts is None else self._accounts.initiating_party_id,
            )

        def judge(exchange: Exchange) -> Judged:
            return outcome_of_rate(exchange, locked_rate=quote.rate, slippage_bps_max=bound, now=self._clock())

        yield self._question(build, judge, quote.rate.encode(), str(bound).encode())

    def _question(
        self, build: Callable[[Identity], VisaRequest], judge: Callable[[Exchange], Judged], *judged_by: bytes
    ) -> Question:
        """`judged_by`: what the judgement rests on beside the request itself, and so what its answer is good for."""
        asked = build(_NOBODYS)
        key = self._answers.key(asked.operation.value.encode(), asked.body or b"", *judged_by)
        return Question(asked.operation, key, build, judge)

    def _application(self, subject: Subject) -> str:
        return subject.request.business_application_id or self._profile.business_application_id

    def _check_quote(self, subject: Subject) -> None:
        """A corridor that bounds slippage sends nothing at a rate that nobody guarantees any more."""
        quote = subject.request.fx_quote
        if quote is not None and _slippage_bound(subject) is not None and quote.expires_at <= self._clock():
            raise PayoutRefused("QUOTE_EXPIRED", "the quote's time ran out before the payout could be sent")


def _nobody_answered(judged: Judged) -> bool:
    """Silence, 429 and 5xx say nothing; an answer that does not confirm takes the place of the one before."""
    return judged.http_status is None or judged.http_status == 429 or judged.http_status >= 500


def _slippage_bound(subject: Subject) -> int | None:
    return None if subject.rules is None else subject.rules.slippage_bps_max
