"""B3, B6, B8, F-08, S1: questions before a payout: what they say, what each answer proves, and for how long."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.events import InquiryVerdict
from processors.payout.outcome import OutcomeKind, Refusal
from processors.secrets import CardNumber, Secret
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.fields import RequestInvalid
from processors.visa.identity import PREFLIGHT_QUESTIONS, identity_from_sequence
from processors.visa.inquiry import InquiryPaths, alias_resolution, card_attributes, card_validation, rate_quote
from processors.visa.inquiry_cache import KEPT_MAX, KEPT_SECONDS, AnswerCache
from processors.visa.inquiry_outcome import (
    Judged,
    outcome_of_account_validation,
    outcome_of_alias,
    outcome_of_card_attributes,
    outcome_of_card_validation,
    outcome_of_rate,
    slippage_exceeded,
)
from processors.visa.requests import CardAcceptor, SubmissionProfile, VisaRequest

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NUMBER = "4957030420210462"
CARD = CardNumber(NUMBER)
PROFILE = SubmissionProfile(
    acquiring_bin="408999",
    acquirer_country_code="840",
    card_acceptor=CardAcceptor(
        name="Payouts Inc", id_code="PAYOUTS01", terminal_id="T1", country="USA", state="CA", county="081",
        zip_code="94404",
    ),
)  # fmt: skip
IDENTITY = identity_from_sequence(1_800_007, NOW)
PASSED, REFUSED, LATER = InquiryVerdict.PASSED, InquiryVerdict.REFUSED, InquiryVerdict.LATER


def body(request: VisaRequest) -> dict[str, Any]:
    assert request.body is not None
    document: dict[str, Any] = json.loads(request.body)
    return document


def rate(product: Any = "A", **changes: Any) -> VisaRequest:
    arguments: dict[str, Any] = {
        "amount": "25.50", "source_currency": "USD", "target_currency": "GBP", "profile": PROFILE,
        "initiating_party_id": 1002,
    }  # fmt: skip
    return rate_quote(product, **(arguments | changes))


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_s1_a_question_about_a_card_has_numbers_of_its_own() -> None:
    """S1, B3: STAN and RRN of the number that it was given; nothing that Visa could take for the payout's call."""
    attributes = card_attributes(PROFILE, IDENTITY, CARD)
    assert attributes.path == "/paai/fundstransferattinq/v5/cardattributes/fundstransferinquiry"
    assert body(attributes) == {
        "primaryAccountNumber": NUMBER,
        "systemsTraceAuditNumber": 100_007,
        "retrievalReferenceNumber": "606012000002",
        "acquiringBin": 408999,
        "acquirerCountryCode": 840,
    }
    validation = card_validation(PROFILE, IDENTITY, CARD, card_expiry="2031-12")
    assert validation.path == "/pav/v1/cardvalidation"
    assert body(validation) == body(attributes) | {
        "cardExpiryDate": "2031-12",
        "cardAcceptor": {"name": "Payouts Inc", "idCode": "PAYOUTS01"},
    }
    assert (attributes.client_transaction_id, validation.client_transaction_id) == (None, None)


def test_an_alias_is_asked_about_for_an_application_that_the_directory_knows() -> None:
    """B4: a disbursement asks as PP would; a business payment as what it is."""
    asked = alias_resolution(Secret("rosalind@example.com"), business_application_id="FD")
    assert body(asked) == {"alias": "rosalind@example.com", "businessApplicationId": "PP"}
    assert body(alias_resolution(Secret("16505550100"), business_application_id="CI"))["businessApplicationId"] == "CI"


def test_a_rate_is_asked_for_as_the_rail_asks() -> None:
    """B8: cards by the acquirer, accounts and wallets by the party; the amount in its currency's digits."""
    shared = {"sourceCurrencyCode": "USD", "destinationCurrencyCode": "GBP", "sourceAmount": "25.50"}
    acquirer = {"bin": 408999, "settlement": {"currencyCode": "USD"}}
    assert body(rate("A")) == shared | {"rateProductCode": "A", "acquirerDetails": acquirer}
    for product in ("BANK", "WALLET"):
        assert body(rate(product)) == shared | {"rateProductCode": product, "initiatingPartyId": 1002}


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda: rate("BANK", initiating_party_id=None), "initiatingPartyId"),
        (lambda: rate(amount="25.505"), "sourceAmount"),
        (lambda: card_validation(PROFILE, IDENTITY, CARD, card_expiry="12/31"), "cardExpiryDate"),
        (lambda: alias_resolution(Secret("x" * 129), business_application_id="PP"), "alias"),
        (lambda: alias_resolution(Secret("a\nb"), business_application_id="PP"), "alias"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field_and_never_by_value(ask: Callable[[], Any], field: str) -> None:
    """P6: the message names the field."""
    with pytest.raises(RequestInvalid) as caught:
        ask()
    assert caught.value.field == field
    assert NUMBER not in str(caught.value)


def test_questions_show_no_card_and_are_the_ones_without_a_transaction() -> None:
    """P6; and the transport gives none of them X-Transaction-Timeout-MS."""
    asked = [card_attributes(PROFILE, IDENTITY, CARD), rate(), card_validation(PROFILE, IDENTITY, CARD)]
    asked.append(alias_resolution(Secret("rosalind@example.com"), business_application_id="PP"))
    assert all(NUMBER not in repr(request) and "rosalind" not in repr(request) for request in asked)
    assert {request.operation for request in asked} < PREFLIGHT_QUESTIONS
    with pytest.raises(ValueError, match="rates"):
        InquiryPaths(rates="no path")


# --- what the answers prove -------------------------------------------------------------------------------------------


def ok(**document: Any) -> Answered:
    return Answered(200, {}, document, None, "corr-7", 0.1)


def error(status: int, message: str = "Missing or Invalid Request Parameters", **more: Any) -> Answered:
    inner = {"status": str(status), "reason": "3001", "message": message, **more}
    return Answered(status, {}, {"errorResponse": inner}, None, "corr-7", 0.1)


def at(*places: str) -> dict[str, Any]:
    return {"details": [{"location": place, "message": "is wrong", "code": "4004"} for place in places]}


def attributes(exchange: Exchange, application: str = "FD", crosses_border: bool = False) -> Judged:
    return outcome_of_card_attributes(
        exchange, application=application, acquirer_country="840", crosses_border=crosses_border
    )


def at_rate(exchange: Exchange, locked: str = "0.80", bound: int = 100) -> Judged:
    return outcome_of_rate(exchange, locked_rate=locked, slippage_bps_max=bound, now=NOW)


JUDGES: dict[str, Callable[[Exchange], Judged]] = {
    "attributes": attributes,
    "validation": outcome_of_card_validation,
    "alias": outcome_of_alias,
    "account": outcome_of_account_validation,
    "rate": at_rate,
}
NO_ANSWERS: list[Exchange] = [
    *(Failed(sent, cause) for sent in (False, True) for cause in FailureCause),
    *(error(status) for status in (401, 403, 405, 408, 409, 415, 422, 429, 500, 502, 503, 504)),
    *(Answered(200, {}, None, problem, None, 0.1) for problem in BodyProblem),
    Answered(404, {}, "not found", BodyProblem.NOT_JSON, None, 0.1),
    Answered(202, {}, {"statusIdentifier": "s-1"}, None, None, 0.1),
    Answered(303, {}, {}, None, None, 0.1),
    Answered(200, {}, [], None, None, 0.1),
    Answered(200, {}, "VALID", None, None, 0.1),
    ok(),
    ok(surprise=1),
    error(400),
    error(400, "Amount is missing", **at("amount")),
]


@pytest.mark.parametrize("exchange", NO_ANSWERS, ids=str)
@pytest.mark.parametrize("name", JUDGES)
def test_whatever_is_no_answer_lets_nothing_pass_and_ends_nothing(name: str, exchange: Exchange) -> None:
    """B3, S2-01: fail closed: LATER, with the outcome that lane, schedule and budget go by."""
    judged = JUDGES[name](exchange)
    assert judged.verdict is LATER
    assert judged.outcome is not None
    assert judged.outcome.kind in (OutcomeKind.REFUSED, OutcomeKind.UNKNOWN)
    assert judged.reason_code == judged.outcome.reason_code


def test_s7_what_is_not_the_payouts_own_spends_nothing_of_it() -> None:
    """S7: as after a push: silence, 429, 401, 503 cost nothing; 500 and a 400 that nobody understands do."""
    free = [Failed(True, FailureCause.READ_TIMEOUT), error(429), error(401), error(403), error(503), error(404)]
    for exchange in free:
        outcome = outcome_of_card_validation(exchange).outcome
        assert outcome is not None
        assert not outcome.is_own_failure
    for exchange in (error(500), error(400), ok()):
        outcome = outcome_of_card_validation(exchange).outcome
        assert outcome is not None
        assert outcome.is_own_failure
    assert outcome_of_card_validation(error(403)).outcome.refusal is Refusal.CREDENTIALS  # type: ignore[union-attr]


VISA = {"issuerCountryCode": 840, "nonMoneyTransferPushFundsDomestic": "Y", "nonMoneyTransferPushFundsCrossBorder": "N"}
OTHER = {"networkId": 5, "cardIssuerCountryCode": 840, "octDomParticipant": "Y", "octXbParticipant": "N"}


@pytest.mark.parametrize(
    ("document", "application", "verdict"),
    [
        ({"visaNetworkInfo": [VISA]}, "FD", PASSED),
        ({"visaNetworkInfo": [VISA | {"issuerCountryCode": "840"}]}, "FD", PASSED),
        ({"visaNetworkInfo": [VISA | {"issuerCountryCode": 826}]}, "FD", REFUSED),
        ({"visaNetworkInfo": [VISA | {"nonMoneyTransferPushFundsDomestic": "N"}]}, "FD", REFUSED),
        ({"visaNetworkInfo": [VISA | {"moneyTransferPushFundsDomestic": "N"}]}, "PP", REFUSED),
        ({"visaNetworkInfo": [VISA | {"onlineGamblingPushFundsDomestic": "N"}]}, "OG", REFUSED),
        ({"visaNetworkInfo": [VISA]}, "PP", LATER),
        ({"visaNetworkInfo": [VISA | {"nonMoneyTransferPushFundsDomestic": "y"}]}, "FD", LATER),
        ({"visaNetworkInfo": [VISA | {"nonMoneyTransferPushFundsDomestic": True}]}, "FD", LATER),
        ({"visaNetworkInfo": [VISA | {"nonMoneyTransferPushFundsDomestic": "N"}, VISA]}, "FD", PASSED),
        ({"visaNetworkInfo": [VISA | {"nonMoneyTransferPushFundsDomestic": "N"}, {}]}, "FD", LATER),
        ({"ppgsNetworkInfo": [OTHER]}, "FD", PASSED),
        ({"ppgsNetworkInfo": [OTHER | {"cardIssuerCountryCode": 826}]}, "FD", REFUSED),
        ({"ppgsNetworkInfo": [OTHER | {"octDomParticipant": "N"}]}, "FD", REFUSED),
        ({"visaNetworkInfo": []}, "FD", LATER),
        ({"visaNetworkInfo": "Y"}, "FD", LATER),
        ({"visaNetworkInfo": {"nonMoneyTransferPushFundsDomestic": "Y"}}, "FD", LATER),
        ({"fastFundsIndicator": "B"}, "FD", LATER),
    ],
)
def test_a_card_is_eligible_by_the_flag_of_its_kind_and_route(
    document: dict[str, Any], application: str, verdict: InquiryVerdict
) -> None:
    """B3: FTAI v5; only "Y" for this very kind lets it pass, only "N" everywhere ends it."""
    judged = attributes(ok(**document), application)
    assert judged.verdict is verdict
    if verdict is REFUSED:
        assert judged.reason_code == "CARD_NOT_ELIGIBLE"


def test_without_an_issuers_country_the_route_of_the_request_counts() -> None:
    bare = {name: value for name, value in VISA.items() if name != "issuerCountryCode"}
    assert attributes(ok(visaNetworkInfo=[bare])).verdict is PASSED
    assert attributes(ok(visaNetworkInfo=[bare]), crosses_border=True).verdict is REFUSED


@pytest.mark.parametrize(
    "message",
    [
        "Invalid Account", "Invalid PAN or Token", "Token expired or deactivated",
        "Unable to find any participating network information for the provided account.",
    ],
)  # fmt: skip
def test_a_400_in_visas_words_about_the_card_ends_the_payout_and_no_other_does(message: str) -> None:
    """B3: the code, 3001, is that of every mistake; the published words are not."""
    envelope = {"responseStatus": {"status": 400, "code": "3001", "message": message}}
    for answer in (error(400, message), Answered(400, {}, envelope, None, None, 0.1)):
        assert (attributes(answer).verdict, attributes(answer).reason_code) == (REFUSED, "CARD_NOT_FOUND")
    assert attributes(error(500, message)).verdict is LATER
    assert attributes(error(400, "The acquiringBin: invalid account")).verdict is LATER


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("85", PASSED), ("00", PASSED), ("11", PASSED),
        ("05", REFUSED), ("14", REFUSED), ("54", REFUSED), ("41", REFUSED), ("57", REFUSED),
        ("91", LATER), ("96", LATER), ("94", LATER), ("10", LATER), ("ZZ", LATER), (85, LATER), ("8", LATER),
        (None, LATER), ({}, LATER),
    ],
)  # fmt: skip
def test_a_card_is_valid_by_its_action_code(code: object, verdict: InquiryVerdict) -> None:
    """B3, S5: BAD is only what the allow-list of declines names; an issuer that is away says nothing."""
    judged = outcome_of_card_validation(ok(actionCode=code))
    assert judged.verdict is verdict
    if verdict is REFUSED:
        assert (judged.reason_code, judged.action_code) == ("CARD_NOT_VALID", code)


def test_an_alias_is_a_card_number_or_nothing() -> None:
    """B4, P6: and it does not show itself."""
    judged = outcome_of_alias(ok(recipientPrimaryAccountNumber=NUMBER))
    assert (judged.verdict, judged.card) == (PASSED, CARD)
    assert NUMBER not in repr(judged)
    assert outcome_of_alias(ok(recipientPrimaryAccountNumber=int(NUMBER))).card == CARD
    for wrong in ("", "4957 0304 2021 0462", "12345", True, None, ["x"]):
        assert outcome_of_alias(ok(recipientPrimaryAccountNumber=wrong)).verdict is LATER
    assert outcome_of_alias(error(404)).reason_code == "ALIAS_NOT_FOUND"
    for gateways in ({"message": "no route"}, {"responseStatus": {"status": 404, "code": "9001"}}, "errorResponse"):
        assert outcome_of_alias(Answered(404, {}, gateways, None, None, 0.1)).verdict is LATER, "a wrong path, maybe"


@pytest.mark.parametrize(
    ("exchange", "verdict", "reason"),
    [
        (ok(status="VALID"), PASSED, "ACCOUNT_VALID"),
        (ok(valid=True, warnings=[]), PASSED, "ACCOUNT_VALID"),
        (ok(status="INVALID"), REFUSED, "ACCOUNT_NOT_VALID"),
        (ok(valid=False), REFUSED, "ACCOUNT_NOT_VALID"),
        (ok(status="VALID", valid=False), LATER, "VALIDATION_NOT_UNDERSTOOD"),
        (ok(status="PENDING"), LATER, "VALIDATION_NOT_UNDERSTOOD"),
        (ok(status={"VALID": 1}), LATER, "VALIDATION_NOT_UNDERSTOOD"),
        (ok(valid="true"), LATER, "VALIDATION_NOT_UNDERSTOOD"),
        (error(400, **at("recipientDetail.bank.accountNumber")), REFUSED, "ACCOUNT_NOT_VALID"),
        (Answered(400, {}, {"reason": "Invalid"} | at("recipientDetail.wallet")), REFUSED, "ACCOUNT_NOT_VALID"),
        (error(400, **at("transactionDetail.quoteId")), REFUSED, "QUOTE_EXPIRED"),
        (error(400, **at("transactionDetail.initiatingPartyId")), LATER, None),
        (error(400, details="recipientDetail.bank"), LATER, None),
    ],
)
def test_an_account_is_valid_by_what_is_said_of_it(
    exchange: Exchange, verdict: InquiryVerdict, reason: str | None
) -> None:
    """B3: what names the recipient's account ends the payout; what names our own members may be our mistake."""
    judged = outcome_of_account_validation(exchange)
    assert judged.verdict is verdict
    assert reason in (None, judged.reason_code)


# --- slippage ---------------------------------------------------------------------------------------------------------


def quote(until: object) -> Answered:
    return ok(conversionRate="0.80", quoteIdExpiryDateTime=until)


RATES = st.decimals(min_value="0.000001", max_value="999999", places=6, allow_nan=False, allow_infinity=False)


@given(locked=RATES, fresh=RATES, bound=st.integers(0, 10_000))
def test_b8_property_slippage_is_exact_and_never_rounded_in_our_favour(
    locked: Decimal, fresh: Decimal, bound: int
) -> None:
    """B8, S1-30: |locked − fresh| / fresh against basis points, compared with fractions that round nothing."""
    exact = abs(Fraction(locked) - Fraction(fresh)) / Fraction(fresh)
    assert slippage_exceeded(locked, fresh, bound) is (exact > Fraction(bound, 10_000))


@given(fresh=RATES, bound=st.integers(0, 10_000))
def test_b8_property_the_bound_itself_passes_and_the_next_digit_does_not(fresh: Decimal, bound: int) -> None:
    """B8: both sides of it, above and below the rate."""
    edge = fresh * bound / 10_000
    for locked, out in ((fresh + edge, Decimal("1e-12")), (fresh - edge, Decimal("-1e-12"))):
        assert not slippage_exceeded(locked, fresh, bound)
        assert slippage_exceeded(locked + out, fresh, bound)


@pytest.mark.parametrize(
    ("exchange", "verdict", "reason"),
    [
        (ok(conversionRate="0.80"), PASSED, "FX_RATE_WITHIN_BOUND"),
        (ok(conversionRate=Decimal("0.7921")), PASSED, "FX_RATE_WITHIN_BOUND"),
        (ok(conversionRate="0.792"), REFUSED, "SLIPPAGE_EXCEEDED"),
        (ok(conversionRate="0.8081"), REFUSED, "SLIPPAGE_EXCEEDED"),
        (ok(conversionRate=1), REFUSED, "SLIPPAGE_EXCEEDED"),
        (ok(conversionRate="0"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(conversionRate="-0.8"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(conversionRate="NaN"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(conversionRate="1e999999"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(conversionRate="0.8" + "0" * 60), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(conversionRate=True), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (ok(destinationAmount="20.00"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (quote("2026-03-01T12:00:00.0Z"), LATER, "FX_RATE_EXPIRED_ON_ARRIVAL"),
        (quote("soon"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (quote("2026-03-02T12:00:00"), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (quote(1), LATER, "FX_RATE_NOT_UNDERSTOOD"),
        (error(400, **at("destinationCurrencyCode")), LATER, "FX_RATE_NOT_FOUND"),
    ],
)
def test_a_locked_rate_is_held_to_the_rate_now(exchange: Exchange, verdict: InquiryVerdict, reason: str) -> None:
    """B8, S1-30: one percent around it; no rate, or one that nobody understands, lets nothing pass."""
    judged = at_rate(exchange)
    assert (judged.verdict, judged.reason_code) == (verdict, reason)


def test_a_quote_that_ends_says_until_when_it_may_be_used() -> None:
    judged = at_rate(quote("2026-03-01T12:00:30.0Z"))
    assert judged.valid_until == NOW + timedelta(seconds=30)


# --- for how long -----------------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.seconds = 0.0

    def cache(self) -> AnswerCache:
        return AnswerCache(seconds=lambda: self.seconds, clock=lambda: NOW + timedelta(seconds=self.seconds))


def test_f08_an_answer_is_used_for_half_a_minute_and_known_for_a_minute() -> None:
    """B6, F-08: used, then asked again, then forgotten."""
    time = Time()
    cache = time.cache()
    key = cache.key(b"card_attributes", b"body")
    cache.keep(key)
    for seconds, usable, valid in ((0, True, True), (29.9, True, True), (30, False, True), (59.9, False, True)):
        time.seconds = seconds
        assert (cache.usable(key) is not None, cache.valid(key) is not None) == (usable, valid)
    time.seconds = KEPT_SECONDS
    assert cache.valid(key) is None
    assert len(cache) == 0


def test_b6_an_answer_that_could_not_be_renewed_is_used_to_its_end_and_not_beyond() -> None:
    """B6: the second try is made once; trying grows nothing younger."""
    time = Time()
    cache = time.cache()
    key = cache.key(b"alias", b"body")
    assert not cache.keep_without_answer(key), "nothing known, nothing to use"
    cache.keep(key, card=CARD)
    time.seconds = 40
    assert cache.keep_without_answer(key)
    answer = cache.usable(key)
    assert answer is not None
    assert answer.card == CARD
    time.seconds = 60
    assert cache.usable(key) is None
    assert not cache.keep_without_answer(key)


def test_b6_no_answer_outlives_the_quote_that_it_rests_on() -> None:
    time = Time()
    cache = time.cache()
    key = cache.key(b"rates", b"body")
    cache.keep(key, valid_until=NOW + timedelta(seconds=5))
    assert cache.usable(key) is not None
    time.seconds = 5
    assert cache.usable(key) is None
    assert not cache.keep_without_answer(key)


def test_b6_the_cache_is_bounded_and_forgets_by_itself() -> None:
    time = Time()
    cache = time.cache()
    keys = [cache.key(str(number).encode()) for number in range(KEPT_MAX + 1)]
    for key in keys:
        cache.keep(key)
    assert len(cache) == KEPT_MAX
    assert cache.usable(keys[0]) is None
    assert cache.usable(keys[-1]) is not None
    time.seconds = KEPT_SECONDS
    cache.forget_old()
    assert len(cache) == 0


def test_p6_keys_are_no_card_numbers_and_mean_nothing_elsewhere() -> None:
    """P6: a keyed hash; what is framed differently is another question."""
    time = Time()
    first, second = time.cache(), time.cache()
    key = first.key(b"card", NUMBER.encode())
    assert NUMBER.encode() not in key
    assert key == first.key(b"card", NUMBER.encode())
    assert key != second.key(b"card", NUMBER.encode())
    assert first.key(b"ab", b"c") != first.key(b"a", b"bc")
    first.keep(key, card=CARD)
    assert NUMBER not in repr(first.valid(key))
