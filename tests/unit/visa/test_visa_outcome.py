"""S4, S5, S8, C4: the outcome tree. Nothing outside the proven set ever becomes PAID or DECLINED."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.visa.action_codes import ActionCodesInvalid, action_codes, declines, parse_action_codes
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.identity import identity_from_sequence
from processors.visa.outcome import (
    outcome_of_adjustment,
    outcome_of_adjustment_query,
    outcome_of_push,
    outcome_of_query,
    outcome_of_reversal,
    outcome_of_reversal_query,
    outcome_of_reversal_status,
    outcome_of_status,
)

PAID, DECLINED, REFUSED = OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.REFUSED
PENDING, UNKNOWN, NOT_FOUND = OutcomeKind.PENDING, OutcomeKind.UNKNOWN, OutcomeKind.NOT_FOUND
OPERATOR = OutcomeKind.OPERATOR
ENDS = {PAID, DECLINED}

IDENTITY = identity_from_sequence(1_234_567, datetime(2026, 11, 22, 17, tzinfo=UTC))
ALLOWED = sorted(code for code, entry in action_codes().items() if entry.declined)


def answer(status: int, body: object = None, problem: str | None = None, **headers: str) -> Answered:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, named, body, problem, "corr-77", 0.1)


def result(action_code: object, **more: object) -> Answered:
    body = {"transactionIdentifier": 587010322176105, "actionCode": action_code, "responseCode": "5", **more}
    return answer(200, body)


def error(status: int, code: str = "3001") -> Answered:
    return answer(status, {"responseStatus": {"status": status, "code": code, "severity": "ERROR", "message": "m"}})


# --- push ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", list(FailureCause))
def test_no_answer_is_definite_only_before_the_first_byte(cause: FailureCause) -> None:
    """S4: connect failure is definite for that attempt; any error after bytes were sent is ambiguous."""
    before = outcome_of_push(Failed(bytes_sent=False, cause=cause, elapsed_seconds=0.1))
    assert (before.kind, before.refusal, before.systemic) == (REFUSED, Refusal.NOT_CONNECTED, True)
    after = outcome_of_push(Failed(bytes_sent=True, cause=cause, elapsed_seconds=0.1))
    assert (after.kind, after.refusal, after.reason_code) == (UNKNOWN, None, cause.value)


def test_a_client_certificate_refused_after_the_send_is_ambiguous_and_systemic() -> None:
    """S4: in TLS 1.3 the refusal comes after the request: ambiguous for the payout, systemic for the stage."""
    outcome = outcome_of_push(Failed(bytes_sent=True, cause=FailureCause.CLIENT_CERTIFICATE_REFUSED))
    assert (outcome.kind, outcome.systemic) == (UNKNOWN, True)
    assert not outcome_of_push(Failed(bytes_sent=True, cause=FailureCause.READ_TIMEOUT)).systemic


@pytest.mark.parametrize(
    ("exchange", "kind", "reason_code"),
    [
        (result("00"), PAID, "ACTION_CODE_00"),
        (result("11"), PAID, "ACTION_CODE_11"),
        (result("10"), OPERATOR, "ACTION_CODE_10"),
        (result("05"), DECLINED, "ACTION_CODE_05"),
        (result("14"), DECLINED, "ACTION_CODE_14"),
        (result("91"), UNKNOWN, "ACTION_CODE_91"),
        (result("96"), UNKNOWN, "ACTION_CODE_96"),
        (result("85"), UNKNOWN, "ACTION_CODE_85"),
        (result("ZZ"), UNKNOWN, "ACTION_CODE_ZZ"),
        (result("94"), UNKNOWN, "DUPLICATE_WITHOUT_PROOF"),
        (result("94", originalActionCode=None), UNKNOWN, "DUPLICATE_WITHOUT_PROOF"),
        (result("94", originalActionCode="94"), UNKNOWN, "DUPLICATE_WITHOUT_PROOF"),
        (result("94", originalActionCode=0), UNKNOWN, "DUPLICATE_WITHOUT_PROOF"),
        (result("94", originalActionCode="00"), PAID, "ACTION_CODE_00"),
        (result("94", originalActionCode="11"), PAID, "ACTION_CODE_11"),
        (result("94", originalActionCode="51"), DECLINED, "ACTION_CODE_51"),
        (result("94", originalActionCode="91"), UNKNOWN, "ACTION_CODE_91"),
        (result("94", originalActionCode="10"), OPERATOR, "ACTION_CODE_10"),
        (result("00", originalActionCode="05"), UNKNOWN, "REPLY_CONTRADICTS_ITSELF"),
        (result("05", originalActionCode="00"), UNKNOWN, "REPLY_CONTRADICTS_ITSELF"),
        (result("00", originalActionCode="00"), PAID, "ACTION_CODE_00"),
        (result(0), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (result("0"), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (result("000"), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (result("５1"), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (result("05\n"), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (result(["00"]), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (answer(200, {"responseCode": "00"}), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (answer(200, [{"actionCode": "00"}]), UNKNOWN, "REPLY_WITHOUT_ACTION_CODE"),
        (answer(200, "00", BodyProblem.NOT_JSON), UNKNOWN, "REPLY_NOT_JSON"),
        (answer(200, None, BodyProblem.EMPTY), UNKNOWN, "REPLY_EMPTY"),
        (answer(200, None, BodyProblem.UNDECRYPTABLE), UNKNOWN, "REPLY_UNDECRYPTABLE"),
        (answer(201, {"actionCode": "00"}), UNKNOWN, "HTTP_201"),
        (answer(204, None, BodyProblem.EMPTY), UNKNOWN, "HTTP_204"),
        (answer(302, {"actionCode": "00"}, location="/x"), UNKNOWN, "HTTP_302"),
        (answer(408, {"actionCode": "05"}), UNKNOWN, "HTTP_408"),
        (answer(409), UNKNOWN, "HTTP_409"),
        (answer(422), UNKNOWN, "HTTP_422"),
        (answer(500, {"actionCode": "05"}), UNKNOWN, "HTTP_500"),
        (answer(502), UNKNOWN, "HTTP_502"),
        (answer(503), UNKNOWN, "HTTP_503"),
        (answer(504), UNKNOWN, "HTTP_504"),
    ],
)
def test_answers_to_a_push(exchange: Exchange, kind: OutcomeKind, reason_code: str) -> None:
    """S4, S5: the tree, leaf by leaf."""
    outcome = outcome_of_push(exchange)
    assert (outcome.kind, outcome.reason_code, outcome.refusal) == (kind, reason_code, None)
    assert outcome.visa_correlation_id == "corr-77"
    assert outcome_of_status(exchange).kind is kind, "a status GET reads the same result the same way"


@pytest.mark.parametrize(
    ("exchange", "refusal", "systemic"),
    [
        (error(400), Refusal.REQUEST_INVALID, False),
        (answer(400, None, BodyProblem.EMPTY), Refusal.REQUEST_INVALID, False),
        (error(400, "9125"), Refusal.CREDENTIALS, True),
        (answer(400, {"errorResponse": {"status": "400", "reason": "9125"}}), Refusal.CREDENTIALS, True),
        (error(401, "9123"), Refusal.CREDENTIALS, True),
        (error(403, "9611"), Refusal.CREDENTIALS, True),
        (answer(403, None, BodyProblem.NOT_JSON), Refusal.CREDENTIALS, True),
        (error(404), Refusal.WRONG_ENDPOINT, True),
        (error(405), Refusal.WRONG_ENDPOINT, True),
        (error(415), Refusal.WRONG_ENDPOINT, True),
        (error(429), Refusal.RATE_LIMITED, True),
    ],
)
def test_definite_refusals_of_one_attempt(exchange: Answered, refusal: Refusal, systemic: bool) -> None:
    """S4, S7: exactly 400, 401, 403, 404, 405, 415 and 429; all but an invalid request are systemic."""
    for judge in (outcome_of_push, outcome_of_reversal):
        outcome = judge(exchange)
        assert (outcome.kind, outcome.refusal, outcome.systemic) == (REFUSED, refusal, systemic)
        assert outcome.http_status == exchange.status


@pytest.mark.parametrize("status", [202, 303])
@pytest.mark.parametrize(
    ("body", "problem", "headers", "identifier"),
    [
        ({"statusIdentifier": "1491819372_186_81_l73c003_VDP_ARM"}, None, {}, "1491819372_186_81_l73c003_VDP_ARM"),
        ({"statusIdentifier": 234234322342343}, None, {}, "234234322342343"),
        ("id-1", None, {}, "id-1"),
        (" id_2\n", BodyProblem.NOT_JSON, {}, "id_2"),
        (234234322342343, None, {}, "234234322342343"),
        (None, BodyProblem.EMPTY, {"location": "https://h/visadirect/fundstransfer/v1/push/id-3"}, "id-3"),
        (None, BodyProblem.EMPTY, {"location": "/push/id-4?x=1#y"}, "id-4"),
        (None, BodyProblem.EMPTY, {"link": '</push/id-5>; rel="status"'}, "id-5"),
        ({}, None, {"link": "</push/id-6>"}, "id-6"),
        ("<html>moved</html>", BodyProblem.NOT_JSON, {"location": "/push/id-7"}, "id-7"),
    ],
)
def test_accepted_answers_wait_at_their_identifier(
    status: int, body: object, problem: str | None, headers: dict[str, str], identifier: str
) -> None:
    """S4: 202 and 303 are ambiguous and say where to ask; both generations of bodies are read."""
    outcome = outcome_of_push(answer(status, body, problem, **headers))
    assert (outcome.kind, outcome.status_identifier) == (PENDING, identifier)


@pytest.mark.parametrize("status", [202, 303])
@pytest.mark.parametrize(
    "exchange_body",
    [
        None,
        {},
        {"statusIdentifier": ""},
        {"statusIdentifier": "../x"},
        {"statusIdentifier": True},
        [],
        "a b",
        -5,
        "<html>",
    ],
)
def test_accepted_without_an_identifier_is_unknown(status: int, exchange_body: object) -> None:
    """S4: nobody can be asked about it but the query."""
    for headers in ({}, {"location": "/"}, {"location": "//[bad"}, {"link": "<>"}):
        assert outcome_of_push(answer(status, exchange_body, **headers)).kind is UNKNOWN


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        ("7", "", 7.0),
        ("0", "", 0.0),
        ("86400", "", 3600.0),
        ("9" * 400, "", 3600.0),
        ("Sun, 22 Nov 2026 17:00:30 GMT", "Sun, 22 Nov 2026 17:00:00 GMT", 30.0),
        ("Sun, 22 Nov 2026 16:00:30 GMT", "Sun, 22 Nov 2026 17:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 17:00:30 GMT", "Sun, 22 Nov 2026 17:00:00 GMT", 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "", 3600.0),
        ("-5", "", None),
        ("soon", "", None),
        ("1.5", "", None),
        ("٣", "", None),
        ("", "", None),
    ],
)
def test_retry_after_is_read_and_bounded(retry_after: str, date: str, seconds: float | None) -> None:
    """S7: the schedule waits as long as Visa asks, at most an hour."""
    outcome = outcome_of_push(answer(429, None, retry_after=retry_after, date=date))
    assert (outcome.refusal, outcome.retry_after_seconds) == (Refusal.RATE_LIMITED, seconds)


def test_facts_of_an_approval_are_kept() -> None:
    """P7: the evidence is in the outcome, the identifier as text although Visa sends a number."""
    outcome = outcome_of_push(result("00", approvalCode="21324K"))
    assert (outcome.transaction_identifier, outcome.approval_code, outcome.action_code) == (
        "587010322176105",
        "21324K",
        "00",
    )


# --- status -------------------------------------------------------------------------------------------------------


def test_a_status_get_that_is_still_pending_keeps_its_identifier() -> None:
    """Visa's samples: a GET made too early is answered with 202 again."""
    assert outcome_of_status(answer(202, None), "id-1").kind is PENDING
    assert outcome_of_status(answer(202, None), "id-1").status_identifier == "id-1"
    assert outcome_of_status(answer(202, {"statusIdentifier": "id-2"}), "id-1").status_identifier == "id-2"


@pytest.mark.parametrize("exchange", [error(404), error(400), answer(404, None, BodyProblem.NOT_JSON)])
def test_an_unknown_identifier_leaves_it_to_the_query(exchange: Answered) -> None:
    """S4: a status GET's 404 is no verdict on the push."""
    for judge in (outcome_of_status, outcome_of_reversal_status):
        outcome = judge(exchange)
        assert (outcome.kind, outcome.reason_code, outcome.systemic) == (UNKNOWN, "STATUS_IDENTIFIER_UNKNOWN", False)


# --- query --------------------------------------------------------------------------------------------------------


def row(status: object = "COMPLETED", code: object = "00", **more: object) -> dict[str, Any]:
    return {
        "statusCode": status, "actionCode": code, "transactionType": "CRED VOUCHER", "transactionIdentifier": "381",
        "systemsTraceAuditNumber": str(IDENTITY.systems_trace_audit_number),
        "retrievalReferenceNumber": IDENTITY.retrieval_reference_number, **more,
    }  # fmt: skip


def query(body: object, status: int = 200, problem: str | None = None, **headers: str) -> Outcome:
    return outcome_of_query(answer(status, body, problem, **headers), "124.50", "USD", transaction=IDENTITY)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], NOT_FOUND),
        ([row()], PAID),
        ([row(code="11")], PAID),
        ([row(code="94", originalActionCode="00")], PAID),
        ([row(code="94", originalActionCode="05")], DECLINED),
        ([row(code="94", originalActionCode="10")], OPERATOR),
        ([row(code="94")], UNKNOWN),
        ([row(code="94", originalActionCode="94")], UNKNOWN),
        ([row(code="05"), row(code="00")], PAID),
        ([row(code="05"), row(code="94", originalActionCode="00")], PAID),
        ([row("IN_PROGRESS"), row()], PAID),
        ([row("FAILED", "05"), row()], PAID),
        ([row("FAILED", None), row(code=None), row()], PAID),
        ([row("NEW_STATUS"), row()], PAID),
        ([row(code="05")], DECLINED),
        ([row(code="91")], DECLINED),
        ([row(code="96")], DECLINED),
        ([row(code="ZZ")], DECLINED),
        ([row(code="91"), row(code="05")], DECLINED),
        ([row(code="10")], OPERATOR),
        ([row("IN_PROGRESS", None)], PENDING),
        ([row("PENDING", "00")], PENDING),
        ([row("IN_PROGRESS", None), row(code="05")], PENDING),
        ([row("FAILED", "96")], OPERATOR),
        ([row("FAILED", None), row(code="05")], OPERATOR),
        ([row("FAILED", "00")], OPERATOR),
        ([row("CANCELLED", None)], OPERATOR),
        ([row("CANCELLED", "00")], OPERATOR),
        ([row("CANCELLED", None), row()], OPERATOR),
        ([row(), row(code="94", originalActionCode="05")], PAID),
        ([row(), row(transactionIdentifier="382")], OPERATOR),
        ([row(originalActionCode="05")], OPERATOR),
        ([row(code=None)], UNKNOWN),
        ([row(code=0)], UNKNOWN),
        ([row(None)], UNKNOWN),
        ([row("completed")], UNKNOWN),
        ([row(code="05"), row(code=None)], UNKNOWN),
        ([row(transactionType=None)], UNKNOWN),
        ([row(code="05", transactionType=None)], UNKNOWN),
        (["row"], UNKNOWN),
        ([None], UNKNOWN),
        ([row(transactionType="cred_voucher")], PAID),
        ([row(transactionType="SALES DRAFT")], OPERATOR),
        ([row(transactionType="CRED REVERSAL")], OPERATOR),
        ([row(), row(transactionType="CRED REVERSAL")], OPERATOR),
        ([row(amount=Decimal("124.5"))], PAID),
        ([row(amount="124.50", transactionCurrencyCode="840")], PAID),
        ([row(amount=None)], PAID),
        ([row(amount=124)], OPERATOR),
        ([row(code="05", amount=Decimal("124.51"))], OPERATOR),
        ([row(amount="NaN")], OPERATOR),
        ([row(amount="sNaN")], OPERATOR),
        ([row(amount=True)], OPERATOR),
        ([row(amount={"value": "124.50"})], OPERATOR),
        ([row(amount=5, amountInTransactionCurrency="124.50")], PAID),
        ([row(), row(amount="1.00")], OPERATOR),
        ([row(transactionCurrencyCode=840)], PAID),
        ([row(transactionCurrencyCode="EUR")], OPERATOR),
        ([row(transactionCurrencyCode="978")], OPERATOR),
        ([row(systemsTraceAuditNumber=IDENTITY.systems_trace_audit_number)], PAID),
        ([row(systemsTraceAuditNumber="100000")], OPERATOR),
        ([row(retrievalReferenceNumber="632617000002")], OPERATOR),
    ],
)
def test_rows_of_a_query(rows: list[Any], kind: OutcomeKind) -> None:
    """S5: an approval wins, 94 counts by its original, FAILED and contradictions go to an operator."""
    assert query(rows).kind is kind
    assert query(rows[::-1]).kind is kind, "the order of the rows decides nothing"


@pytest.mark.parametrize(
    ("outcome", "kind", "refusal"),
    [
        (query([row(code="05")], x_pagination="true"), UNKNOWN, None),
        (query([], x_pagination="true"), UNKNOWN, None),
        (query([row()], x_pagination="true"), PAID, None),
        (query({"responseStatus": {"status": 404, "code": "3001"}}, 404), NOT_FOUND, None),
        (query({"errorResponse": {"status": "404", "reason": "notFound"}}, 404), NOT_FOUND, None),
        (query({"responseStatus": {"status": 400}}, 404), REFUSED, Refusal.WRONG_ENDPOINT),
        (query("not found", 404, BodyProblem.NOT_JSON), REFUSED, Refusal.WRONG_ENDPOINT),
        (query(None, 404, BodyProblem.EMPTY), REFUSED, Refusal.WRONG_ENDPOINT),
        (query({"responseStatus": {"status": 400, "code": "3001"}}, 400), UNKNOWN, None),
        (query({"responseStatus": {"status": 400, "code": "9125"}}, 400), REFUSED, Refusal.CREDENTIALS),
        (query(None, 401), REFUSED, Refusal.CREDENTIALS),
        (query(None, 429), REFUSED, Refusal.RATE_LIMITED),
        (query(None, 202), UNKNOWN, None),
        (query(None, 503), UNKNOWN, None),
        (query([row()], 206), UNKNOWN, None),
        (query([row()], 500), UNKNOWN, None),
        (query({"transactions": []}), UNKNOWN, None),
        (query(None, 200, BodyProblem.EMPTY), UNKNOWN, None),
        (query("[]", 200, BodyProblem.NOT_JSON), UNKNOWN, None),
        (outcome_of_query(Failed(bytes_sent=True, cause="READ_TIMEOUT"), "1", "USD"), UNKNOWN, None),
        (
            outcome_of_query(Failed(bytes_sent=False, cause="CONNECT_FAILED"), "1", "USD"),
            REFUSED,
            Refusal.NOT_CONNECTED,
        ),
    ],
)
def test_answers_to_a_query_that_show_no_rows(outcome: Outcome, kind: OutcomeKind, refusal: Refusal | None) -> None:
    """S5, S6: a query that failed says nothing; it never finds, ends or invalidates a payout."""
    assert (outcome.kind, outcome.refusal) == (kind, refusal)
    assert outcome.systemic == (refusal is not None)


# --- reversal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "kind"),
    [
        (result("00"), PAID),
        (result("11"), PAID),
        (result("94", originalActionCode="00"), UNKNOWN),
        (result("94", originalActionCode="05"), UNKNOWN),
        (result("94"), UNKNOWN),
        (result("05"), DECLINED),
        (result("25"), UNKNOWN),
        (result("10"), OPERATOR),
        (answer(202, {"statusIdentifier": "id-1"}), PENDING),
        (answer(500), UNKNOWN),
        (Failed(bytes_sent=True, cause="READ_TIMEOUT"), UNKNOWN),
    ],
)
def test_a_reversal_is_proven_by_its_own_reply_and_never_by_94(exchange: Exchange, kind: OutcomeKind) -> None:
    """C4: a duplicate may be the card pull's, which has the same numbers."""
    assert outcome_of_reversal(exchange).kind is kind
    assert outcome_of_reversal_status(exchange, "id-1").kind is kind


def pull(status: object = "COMPLETED", code: object = "00", **more: object) -> dict[str, Any]:
    return row(status, code, transactionType="SALES DRAFT", **more)


def undone(status: object = "COMPLETED", code: object = "00", **more: object) -> dict[str, Any]:
    return row(status, code, transactionType="SALES REVERSAL", **more)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], NOT_FOUND),
        ([pull()], NOT_FOUND),
        ([pull(), pull(code="94", originalActionCode="00")], NOT_FOUND),
        ([pull("IN_PROGRESS", None)], NOT_FOUND),
        ([pull(amount="999.00")], NOT_FOUND),
        ([pull(), undone()], PAID),
        ([undone(code="11")], PAID),
        ([pull(), undone(code="94", originalActionCode="00")], UNKNOWN),
        ([pull(), undone(code="94", originalActionCode="05")], UNKNOWN),
        ([pull(), undone("IN_PROGRESS", None)], PENDING),
        ([pull(), undone("FAILED", None)], OPERATOR),
        ([pull(), undone("CANCELLED", None)], OPERATOR),
        ([pull(), undone(code="05")], DECLINED),
        ([pull(), undone(code="05"), undone()], PAID),
        ([pull(), undone(amount="1.00")], OPERATOR),
        ([pull(), row(transactionType="CRED VOUCHER")], OPERATOR),
        ([pull(), row(transactionType=None)], UNKNOWN),
        ([pull(), None], UNKNOWN),
    ],
)
def test_a_reversal_query_looks_at_reversal_rows_only(rows: list[Any], kind: OutcomeKind) -> None:
    """C4: the pull's own approval must not read as the reversal's."""
    for ordered in (rows, rows[::-1]):
        outcome = outcome_of_reversal_query(answer(200, ordered), "124.50", "USD", transaction=IDENTITY)
        assert outcome.kind is kind


# --- adjustment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exchange", "kind"),
    [
        (result("00"), PAID),
        (result("11"), PAID),
        (result("05"), DECLINED),
        (result("10"), OPERATOR),
        (result("25"), UNKNOWN),
        (result("94", originalActionCode="00"), UNKNOWN),
        (result("94"), UNKNOWN),
        (answer(202, {"statusIdentifier": "id-1"}), UNKNOWN),
        (answer(303, {"statusIdentifier": "id-1"}), UNKNOWN),
        (answer(429), REFUSED),
        (answer(500), UNKNOWN),
        (Failed(False, FailureCause.CONNECT_FAILED), REFUSED),
        (Failed(True, FailureCause.READ_TIMEOUT), UNKNOWN),
    ],
)
def test_an_adjustment_is_proven_by_its_own_reply_alone(exchange: Exchange, kind: OutcomeKind) -> None:
    """S3, S4, C4: it has no duplicate key and no status URL, so neither 94 nor 202 says what became of it."""
    assert outcome_of_adjustment(exchange).kind is kind


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], NOT_FOUND),
        ([undone()], PAID),
        ([row()], PAID),
        ([undone(code="05")], DECLINED),
        ([undone(code="94", originalActionCode="00")], UNKNOWN),
        ([undone("IN_PROGRESS", None)], PENDING),
        ([undone("FAILED", "05")], OPERATOR),
        ([undone(amount="1.00")], OPERATOR),
        ([undone(systemsTraceAuditNumber="451018")], OPERATOR),
        ([pull()], OPERATOR),
        ([undone(), pull()], OPERATOR),
        ([row(transactionType=None)], UNKNOWN),
    ],
)
def test_an_adjustment_query_judges_rows_under_its_own_numbers(rows: list[Any], kind: OutcomeKind) -> None:
    """S5, C4: own row only; the pull's row under these numbers is a contradiction that a person reads."""
    for ordered in (rows, rows[::-1]):
        outcome = outcome_of_adjustment_query(answer(200, ordered), "124.50", "USD", transaction=IDENTITY)
        assert outcome.kind is kind


def test_an_adjustment_query_that_was_refused_says_nothing() -> None:
    """S5: 401 to a query is about the query."""
    assert outcome_of_adjustment_query(answer(401), "124.50", "USD").kind is REFUSED
    assert outcome_of_adjustment_query(answer(500), "124.50", "USD").kind is UNKNOWN


# --- properties ---------------------------------------------------------------------------------------------------

CODES: st.SearchStrategy[Any] = st.sampled_from(
    ["00", "11", "10", "94", "05", "91", "85", "ZZ", "", "0", None, 0, True, [], {}]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=8) | CODES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
RESULTS = st.fixed_dictionaries(
    {"actionCode": CODES}, optional={"originalActionCode": CODES, "transactionIdentifier": JSON}
)
STATUS_CODES: st.SearchStrategy[Any] = st.sampled_from(
    ["COMPLETED", "IN_PROGRESS", "PENDING", "FAILED", "CANCELLED", "", None, 5]
)
TYPES = st.sampled_from(["CRED VOUCHER", "CRED REVERSAL", "SALES DRAFT", "SALES REVERSAL", "", None])
ROWS = st.fixed_dictionaries(
    {"actionCode": CODES, "statusCode": STATUS_CODES, "transactionType": TYPES},
    optional={
        "originalActionCode": CODES,
        "amount": st.sampled_from([Decimal("124.50"), "124.50", "1", None]) | JSON,
        "transactionIdentifier": st.sampled_from(["1", "2"]) | JSON,
    },
)
HEADERS = st.dictionaries(
    st.sampled_from(["location", "link", "retry-after", "date", "x-pagination"]), st.text(max_size=30), max_size=3
)
PROBLEMS = st.none() | st.sampled_from(BodyProblem)


def exchanges(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Exchange]:
    answered = st.builds(
        Answered,
        st.sampled_from([200, 202, 303, 400, 404, 429, 500]) | st.integers(100, 599),
        HEADERS,
        bodies,
        PROBLEMS,
    )
    failed = st.builds(Failed, st.booleans(), st.sampled_from(FailureCause))
    return st.one_of(answered, failed)


def proven_by_reply(exchange: Exchange, *, duplicates_count: bool) -> OutcomeKind | None:
    """The rule, written a second time and backwards: what a reply must be to end anything."""
    if not isinstance(exchange, Answered) or exchange.status != 200 or exchange.body_problem is not None:
        return None
    if not isinstance(exchange.body, Mapping):
        return None
    code, original = exchange.body.get("actionCode"), exchange.body.get("originalActionCode")
    if code == "94":
        code = original if duplicates_count else None
    elif original not in (None, "", code):
        return None
    if code in ("00", "11") and isinstance(code, str):
        return PAID
    return DECLINED if code in ALLOWED and isinstance(code, str) else None


@given(exchanges(RESULTS | JSON))
def test_property_only_the_proven_set_ends_a_payout(exchange: Exchange) -> None:
    """S4, S5: over any status, headers and body; and no input makes the tree raise."""
    expected = proven_by_reply(exchange, duplicates_count=True)
    for judge in (outcome_of_push, outcome_of_status):
        kind = judge(exchange).kind
        assert (kind if kind in ENDS else None) == expected
    expected = proven_by_reply(exchange, duplicates_count=False)
    for judge in (outcome_of_reversal, outcome_of_reversal_status):
        kind = judge(exchange).kind
        assert (kind if kind in ENDS else None) == expected


@given(exchanges(st.lists(ROWS, max_size=4) | JSON))
def test_property_only_completed_rows_end_a_payout(exchange: Exchange) -> None:
    """S5, C4: PAID needs a completed approval of the right kind and amount; DECLINED needs every row completed."""
    outcome = outcome_of_query(exchange, "124.50", "USD")
    reversal = outcome_of_reversal_query(exchange, "124.50", "USD")
    for judged, kind in ((outcome, "CRED VOUCHER"), (reversal, "SALES REVERSAL")):
        if judged.kind not in ENDS:
            continue
        assert isinstance(exchange, Answered)
        assert exchange.status == 200
        assert isinstance(exchange.body, list)
        rows = [item for item in exchange.body if item["transactionType"] == kind]
        finished = [item for item in rows if item["statusCode"] == "COMPLETED"]
        codes = [
            item.get("originalActionCode") if item["actionCode"] == "94" else item["actionCode"] for item in finished
        ]
        approved = any(code in ("00", "11") for code in codes)
        assert approved if judged.kind is PAID else (not approved and rows == finished)


@given(exchanges(RESULTS | JSON))
def test_property_refused_is_the_definite_set_of_s4(exchange: Exchange) -> None:
    """S4: nothing else is definite for its attempt; 5xx, 202 and 303 never are."""
    definite = (
        not exchange.bytes_sent
        if isinstance(exchange, Failed)
        else exchange.status in {400, 401, 403, 404, 405, 415, 429}
    )
    outcome = outcome_of_push(exchange)
    assert (outcome.kind is REFUSED) == definite
    assert (outcome.refusal is not None) == definite


@given(exchanges(RESULTS | JSON))
def test_property_outcomes_are_fit_to_be_stored(exchange: Exchange) -> None:
    """P6, L5: whatever came, the outcome holds short ASCII in known forms: no NUL, no echo of the body."""
    outcome = outcome_of_push(exchange)
    assert re.fullmatch(r"[A-Z0-9_]{1,64}", outcome.reason_code)
    for text in (outcome.transaction_identifier, outcome.approval_code, outcome.status_identifier, outcome.action_code):
        assert text is None or re.fullmatch(r"[A-Za-z0-9_.~-]{1,128}", text)


CARD = "4957030420210462"


@pytest.mark.parametrize("judge", [outcome_of_push, outcome_of_status, outcome_of_reversal])
def test_an_identifier_that_looks_like_a_card_number_is_not_taken(judge: Callable[[Exchange], Outcome]) -> None:
    """P6: it would stand in the row, in logs and in a URL; without it the query decides. Found by fuzzing."""
    paid = judge(Answered(200, body={"actionCode": "00", "transactionIdentifier": CARD, "approvalCode": "20304B"}))
    assert (paid.kind, paid.transaction_identifier) == (PAID, None)
    for body, headers in (({"statusIdentifier": CARD}, {}), (CARD, {}), (None, {"location": f"/status/{CARD}"})):
        assert CARD not in repr(judge(Answered(202, headers=headers, body=body)))


def test_two_approvals_are_seen_whatever_their_identifiers_look_like() -> None:
    """S5: what is not shown is compared all the same."""
    row = {"statusCode": "COMPLETED", "transactionType": "CRED VOUCHER", "actionCode": "00", "amount": "124.50"}
    rows = [{**row, "transactionIdentifier": identifier} for identifier in (587010322176105, int(CARD))]
    outcome = outcome_of_query(Answered(200, body=rows), "124.50", "USD")
    assert (outcome.kind, outcome.reason_code) == (OPERATOR, "QUERY_SHOWS_TWO_APPROVALS")


def test_a_transaction_identifier_of_fifteen_digits_is_kept_whatever_it_looks_like() -> None:
    """Visa's have 15 digits, of which some pass every test for a card number: 378282246310005 is a test number."""
    answer = Answered(200, body={"actionCode": "00", "transactionIdentifier": 378282246310005})
    assert outcome_of_push(answer).transaction_identifier == "378282246310005"


# --- the allow-list -----------------------------------------------------------------------------------------------


def test_the_allow_list_names_no_approval_duplicate_or_transient_code() -> None:
    """S5: 91, 96 and whatever is not listed prove nothing; 00, 10, 11 and 94 are never declines."""
    assert not {"00", "10", "11", "94", "91", "96", "06", "19", "85", "79", "80"} & set(ALLOWED)
    assert {"05", "14", "51", "54", "57", "61", "62", "65"} <= set(ALLOWED)
    assert not declines("ZZ")
    assert all(entry.source and entry.meaning for entry in action_codes().values())


ENTRY = '{meaning: "m", category: policy, declined: true, source: openapi}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "codes: []",
        f'codes: {{"05": {ENTRY}, "05": {ENTRY}}}',
        f"codes: {{05: {ENTRY}}}",
        f'codes: {{"00": {ENTRY}}}',
        f'codes: {{"94": {ENTRY}}}',
        f'codes: {{"5": {ENTRY}}}',
        'codes: {"05": {meaning: m, category: policy, declined: "true", source: openapi}}',
        'codes: {"05": {meaning: m, category: policy, declined: true, source: rumour}}',
        'codes: {"05": {meaning: m, category: policy, declined: true}}',
    ],
)
def test_a_damaged_allow_list_is_refused(text: str) -> None:
    """S5: the file decides about money, so it is exactly right or not used at all."""
    with pytest.raises(ActionCodesInvalid):
        parse_action_codes(text)
