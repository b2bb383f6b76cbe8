"""S3, S4, S5, S8: what an exchange about an account or wallet payout has proven; only Visa's own words end one (B4)."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.visa.account_outcome import outcome_of_payout, outcome_of_payout_query
from processors.visa.account_statuses import (
    STATUSES,
    AccountStatusesInvalid,
    account_statuses,
    parse_account_statuses,
)
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause

PAID, DECLINED, RETURNED = OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.RETURNED
PENDING, UNKNOWN, NOT_FOUND = OutcomeKind.PENDING, OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND
REFUSED, OPERATOR = OutcomeKind.REFUSED, OutcomeKind.OPERATOR
ENDS = {PAID, DECLINED, RETURNED}

REFERENCE = "PAAAABBBBCCCC234"
ENDED_BY = {
    "PAYMENT_DELIVERED": PAID,
    "REJECTED": DECLINED,
    "CANCELLED": DECLINED,
    "RETURNED": RETURNED,
}
KIND_OF = {status: ENDED_BY.get(status, PENDING) for status in sorted(STATUSES)}


def answer(status: int, body: object = None, problem: str | None = None, **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, named, body, problem, "corr-77", 0.1)


def payout(status: object = "PAYMENT_RECEIVED", **more: object) -> dict[str, object]:
    return {
        "payoutId": "A-2026-0001",
        "clientReferenceId": REFERENCE,
        "transactionAmount": Decimal("124.05"),
        "transactionCurrencyCode": "USD",
        "status": status,
        **more,
    }


def sent(exchange: Exchange) -> Outcome:
    return outcome_of_payout(exchange, "124.05", "USD", REFERENCE)


def asked(exchange: Exchange) -> Outcome:
    return outcome_of_payout_query(exchange, "124.05", "USD", REFERENCE)


# --- the ten statuses


@pytest.mark.parametrize("judge", [sent, asked], ids=["send", "query"])
@pytest.mark.parametrize(("status", "kind"), sorted(KIND_OF.items()))
def test_s8_each_of_the_ten_statuses_has_one_meaning(judge: Any, status: str, kind: OutcomeKind) -> None:
    """B4, S8: accepted is not delivered; one status alone is paid."""
    outcome = judge(answer(200, payout(status)))
    assert (outcome.kind, outcome.reason_code) == (kind, status)
    assert outcome.transaction_identifier == "A-2026-0001"
    assert outcome.visa_correlation_id == "corr-77"
    assert not outcome.is_own_failure


@pytest.mark.parametrize("judge", [sent, asked], ids=["send", "query"])
def test_the_members_are_read_at_the_top_and_in_the_detail(judge: Any) -> None:
    nested = {"transactionDetail": payout("PAYMENT_DELIVERED")}
    assert judge(answer(200, nested)).kind is PAID
    mixed = {"status": "PAYMENT_DELIVERED", "transactionDetail": payout("PAYMENT_DELIVERED")}
    assert judge(answer(200, mixed)).kind is PAID


def test_two_statuses_in_one_answer_end_nothing() -> None:
    """S5: a contradiction is for the query, and from a query for a person."""
    both = {"status": "REJECTED", "transactionDetail": payout("PAYMENT_DELIVERED")}
    assert (sent(answer(200, both)).kind, asked(answer(200, both)).kind) == (UNKNOWN, OPERATOR)


@pytest.mark.parametrize("judge", [sent, asked], ids=["send", "query"])
def test_what_waits_for_money_is_pending_and_says_so(judge: Any) -> None:
    """fundingStatus never decides: NOT_FUNDED may be funded, and a final status stays final."""
    waits = judge(answer(200, payout(fundingStatus="NOT_FUNDED")))
    assert (waits.kind, waits.reason_code) == (PENDING, "PAYMENT_RECEIVED_NOT_FUNDED")
    assert judge(answer(200, payout("REJECTED", fundingStatus="NOT_FUNDED"))).reason_code == "REJECTED"
    assert judge(answer(200, payout("PAYMENT_DELIVERED", fundingStatus="NOT_FUNDED"))).kind is PAID


# --- what it speaks of


@pytest.mark.parametrize("judge", [sent, asked], ids=["send", "query"])
@pytest.mark.parametrize(
    ("other", "reason_code"),
    [
        ({"clientReferenceId": "PZZZZZZZZZZZZZZZ"}, "PAYOUT_REFERENCE_MISMATCH"),
        ({"clientReferenceId": 5}, "PAYOUT_REFERENCE_MISMATCH"),
        ({"transactionAmount": Decimal("124.06")}, "PAYOUT_AMOUNT_MISMATCH"),
        ({"transactionAmount": "a lot"}, "PAYOUT_AMOUNT_MISMATCH"),
        ({"transactionCurrencyCode": "EUR"}, "PAYOUT_CURRENCY_MISMATCH"),
        ({"transactionCurrencyCode": "978"}, "PAYOUT_CURRENCY_MISMATCH"),
    ],
)
@pytest.mark.parametrize("status", ["PAYMENT_DELIVERED", "REJECTED", "PAYMENT_SENT"])
def test_s5_an_answer_about_another_payout_or_other_money_is_a_persons(
    judge: Any, other: dict[str, object], reason_code: str, status: str
) -> None:
    outcome = judge(answer(200, payout(status, **other)))
    assert (outcome.kind, outcome.reason_code) == (OPERATOR, reason_code)


def test_the_same_money_in_another_spelling_is_the_same() -> None:
    spelled = payout("PAYMENT_DELIVERED", transactionAmount="124.050", transactionCurrencyCode="840")
    assert (sent(answer(200, spelled)).kind, asked(answer(200, spelled)).kind) == (PAID, PAID)


def test_absent_members_say_nothing() -> None:
    assert sent(answer(200, {"status": "PAYMENT_DELIVERED"})).kind is PAID


def test_s3_two_payouts_under_our_reference_are_a_persons() -> None:
    """The one sign that an account payout was sent twice."""
    outcome = asked(answer(200, [payout("PAYMENT_DELIVERED"), payout("PAYMENT_DELIVERED")]))
    assert (outcome.kind, outcome.reason_code) == (OPERATOR, "TWO_PAYOUTS_UNDER_ONE_REFERENCE")
    assert asked(answer(200, [payout("REJECTED")], x_pagination="true")).kind is OPERATOR


def test_one_payout_in_a_list_is_that_payout() -> None:
    assert asked(answer(200, [payout("REJECTED")])).kind is DECLINED


# --- what proves nothing


@pytest.mark.parametrize("body", [payout("PAYMENT_VANISHED"), payout(None), payout(7), {}, [], "text", None, [7]])
def test_a_send_answered_without_a_listed_status_is_unknown(body: object) -> None:
    """S4: 200 that cannot be read is ambiguous: the query decides."""
    assert sent(answer(200, body)).kind is UNKNOWN


@pytest.mark.parametrize("problem", list(BodyProblem))
def test_s0_24_what_cannot_be_read_is_unknown(problem: BodyProblem) -> None:
    """S4, S0-24: an answer that cannot be decrypted proves nothing either way, from a send or a query."""
    assert sent(answer(200, None, problem)).reason_code == f"REPLY_{problem}"
    assert (sent(answer(200, None, problem)).kind, asked(answer(200, None, problem)).kind) == (UNKNOWN, UNKNOWN)


def test_a_status_that_nobody_knows_is_a_persons_after_a_query() -> None:
    """S5: asked again it would say the same."""
    outcome = asked(answer(200, payout("PAYMENT_VANISHED")))
    assert (outcome.kind, outcome.reason_code) == (OPERATOR, "PAYOUT_STATUS_NOT_LISTED")


def test_a_payout_without_a_status_is_asked_about_again() -> None:
    for body in ({}, {"clientReferenceId": REFERENCE}, [7], "text"):
        assert asked(answer(200, body)).kind is UNKNOWN


@pytest.mark.parametrize("cause", list(FailureCause))
def test_s4_no_answer_is_definite_only_before_the_first_byte(cause: FailureCause) -> None:
    """S4, S0-19: after the first byte nobody knows; the rail has no duplicate key, so it is asked about."""
    before, after = sent(Failed(False, cause)), sent(Failed(True, cause))
    assert (before.kind, before.refusal, before.systemic) == (REFUSED, Refusal.NOT_CONNECTED, True)
    assert (after.kind, after.refusal) == (UNKNOWN, None)


@pytest.mark.parametrize("status", [201, 204, 301, 303, 408, 409, 500, 502, 503, 504])
def test_s4_other_http_answers_prove_nothing(status: int) -> None:
    """S4: also a 409: what a second send under one reference is answered with is not documented."""
    for judge in (sent, asked):
        assert judge(answer(status, payout("REJECTED"))).kind is UNKNOWN


def test_202_is_pending_and_never_more() -> None:
    """S8: 202, still processing; the query tells the rest, whatever the body already says."""
    outcome = sent(answer(202, payout("PAYMENT_DELIVERED")))
    assert (outcome.kind, outcome.reason_code, outcome.transaction_identifier) == (PENDING, "HTTP_202", "A-2026-0001")
    assert asked(answer(202, None)).kind is PENDING


def test_202_with_two_names_for_one_payout_is_pending_without_a_name() -> None:
    """S8: that it was accepted says the status; a body that contradicts itself must not cost the answer."""
    outcome = sent(answer(202, {"payoutId": "A-1", "transactionDetail": {"payoutId": "A-2"}}))
    assert (outcome.kind, outcome.reason_code, outcome.transaction_identifier) == (PENDING, "HTTP_202", None)


# --- refusals


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (400, Refusal.REQUEST_INVALID),
        (401, Refusal.CREDENTIALS),
        (403, Refusal.CREDENTIALS),
        (404, Refusal.WRONG_ENDPOINT),
        (405, Refusal.WRONG_ENDPOINT),
        (415, Refusal.WRONG_ENDPOINT),
        (429, Refusal.RATE_LIMITED),
    ],
)
def test_s4_the_refusals_of_a_send_are_those_of_a_push(status: int, refusal: Refusal) -> None:
    outcome = sent(answer(status, {"errorResponse": {"status": status, "reason": "no"}}, retry_after="7"))
    assert (outcome.kind, outcome.refusal) == (REFUSED, refusal)
    assert outcome.systemic is (refusal is not Refusal.REQUEST_INVALID)
    assert outcome.retry_after_seconds == 7.0


@pytest.mark.parametrize("place", ["top", "envelope"])
def test_the_code_of_an_invalid_payout_is_told(place: str) -> None:
    details = {"reason": "InvalidPayoutRequest", "details": [{"location": "x", "message": "m", "code": "4003"}]}
    body = details if place == "top" else {"errorResponse": details}
    assert sent(answer(400, body)).reason_code == "HTTP_400_4003"


@pytest.mark.parametrize("details", [[], "4003", [{"code": "4111111111111111"}], [{}], [4003], {}])
def test_only_a_code_is_copied_from_an_error(details: object) -> None:
    """P6: nothing else of an error body reaches the row."""
    assert sent(answer(400, {"details": details})).reason_code == "HTTP_400"


def test_missing_encryption_is_a_matter_of_credentials() -> None:
    outcome = sent(answer(400, {"responseStatus": {"status": 400, "code": "9125"}}))
    assert outcome.refusal is Refusal.CREDENTIALS


# --- the query


@pytest.mark.parametrize(
    "body",
    [{"responseStatus": {"status": 404, "code": "3001"}}, {"errorResponse": {"status": "404"}}, {"status": 404}],
)
def test_s3_a_readable_not_found_is_not_found(body: object) -> None:
    outcome = asked(answer(404, body))
    assert (outcome.kind, outcome.reason_code) == (NOT_FOUND, "QUERY_NOT_FOUND")


def test_an_empty_list_is_not_found() -> None:
    assert asked(answer(200, [])).kind is NOT_FOUND


@pytest.mark.parametrize(("body", "problem"), [(None, BodyProblem.EMPTY), ("<html>", BodyProblem.NOT_JSON), ({}, None)])
def test_another_404_to_a_query_is_a_wrong_url(body: object, problem: BodyProblem | None) -> None:
    outcome = asked(answer(404, body, problem))
    assert (outcome.kind, outcome.refusal) == (REFUSED, Refusal.WRONG_ENDPOINT)


def test_s6_a_query_refused_as_invalid_says_nothing_about_the_payout() -> None:
    outcome = asked(answer(400, {"details": [{"code": "4100"}]}))
    assert (outcome.kind, outcome.refusal, outcome.reason_code) == (UNKNOWN, None, "HTTP_400_4100")


@pytest.mark.parametrize("status", [401, 403, 405, 415, 429])
def test_a_refused_query_is_the_querys_refusal(status: int) -> None:
    assert asked(answer(status)).kind is REFUSED


# --- what may be shown


@pytest.mark.parametrize("identifier", ["4111111111111111", 4111111111111111, "x" * 65, "a b", "", True, ["A"]])
def test_p6_an_identifier_that_is_not_fit_for_the_row_is_left_out(identifier: object) -> None:
    for exchange in (
        answer(200, payout("PAYMENT_DELIVERED", payoutId=identifier)),
        answer(202, {"payoutId": identifier}),
    ):
        assert sent(exchange).transaction_identifier is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(sorted(STATUSES)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["status", "transactionDetail", "clientReferenceId", "transactionAmount", "payoutId", "fundingStatus"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(status=st.sampled_from([200, 201, 202, 303, 400, 404, 409, 429, 500, 503]), body=JSON)
def test_nothing_but_a_listed_status_in_a_200_ever_ends_a_payout(status: int, body: object) -> None:
    """P3, S4: whatever is answered, and nothing is raised."""
    for judge in (sent, asked):
        outcome = judge(answer(status, body))
        if outcome.kind in ENDS:
            assert status == 200
            assert outcome.reason_code in ENDED_BY
            assert outcome.reason_code in repr(body)
        if outcome.kind is NOT_FOUND:
            assert judge is asked


# --- the table


def test_the_table_says_something_about_each_of_the_ten() -> None:
    assert {status: entry.outcome for status, entry in account_statuses().items()} == KIND_OF
    assert all(entry.meaning for entry in account_statuses().values())


def _table(**changes: str) -> str:
    outcomes = {status: kind.value for status, kind in KIND_OF.items()} | changes
    return "statuses:\n" + "".join(f"  {name}: {{meaning: m, outcome: {kind}}}\n" for name, kind in outcomes.items())


@pytest.mark.parametrize(
    "text",
    [
        _table(PAYMENT_RECEIVED="PAID"),
        _table(PAYMENT_DELIVERED="PENDING"),
        _table(REJECTED="UNKNOWN"),
        _table(SOMETHING_NEW="PENDING"),
        _table().replace("meaning: m", "meaning: ''", 1),
        _table().replace("meaning: m, ", "", 1),
        _table().replace("statuses", "others"),
        "statuses: []",
        "[",
        "",
    ],
)
def test_s8_a_table_that_would_pay_for_less_than_delivered_is_refused(text: str) -> None:
    with pytest.raises(AccountStatusesInvalid):
        parse_account_statuses(text)


def test_a_status_that_stands_twice_is_refused() -> None:
    with pytest.raises(AccountStatusesInvalid):
        parse_account_statuses(_table() + "  REJECTED: {meaning: m, outcome: PENDING}\n")
