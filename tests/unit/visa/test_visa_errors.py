"""B9, S1-04, S1-05, S9: the table of errors names and advises, agrees with the outcome tree, and decides nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from processors.compliance.decide import ComplianceReason
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.validation.reason_codes import ReasonCode
from processors.visa import errors as module
from processors.visa.action_codes import action_codes
from processors.visa.errors import (
    ErrorCategory,
    ErrorsInvalid,
    Handling,
    Origin,
    VisaError,
    VisaErrorContext,
    describe,
    error_named,
    error_table,
    handling_of,
    parse_errors,
)
from processors.visa.exchange import Answered, BodyProblem, Exchange, Failed, FailureCause
from processors.visa.outcome import CREDENTIAL_CODES, outcome_of_push, outcome_of_query

ROOT = Path(__file__).parents[3]
PUBLISHED = """
NETWORK_TIMEOUT NetworkTimeout 408 TIMEOUT yes
NETWORK_ERROR NetworkError 503 NETWORK yes
UNAUTHORIZED Unauthorized 401 01 no
FORBIDDEN Forbidden 403 02 no
CERTIFICATE_INVALID CertificateInvalid 401 03 no
BAD_REQUEST BadRequest 400 10 no
INVALID_PAN InvalidPan 400 11 no
INVALID_AMOUNT InvalidAmount 400 12 no
INVALID_CURRENCY InvalidCurrency 400 13 no
MISSING_REQUIRED_FIELD MissingRequiredField 422 14 no
INSUFFICIENT_FUNDS InsufficientFunds 400 20 no
ACCOUNT_NOT_FOUND AccountNotFound 404 21 no
CARD_NOT_FOUND CardNotFound 404 22 no
WALLET_NOT_FOUND WalletNotFound 404 23 no
ALIAS_NOT_FOUND AliasNotFound 404 24 no
TRANSACTION_DECLINED TransactionDeclined 400 30 no
DUPLICATE_TRANSACTION DuplicateTransaction 409 31 no
TRANSACTION_EXPIRED TransactionExpired 400 32 no
RECEIPT_REUSED ReceiptReused 400 33 no
COMPLIANCE_DENIED ComplianceDenied 403 40 no
SANCTIONS_MATCH SanctionsMatch 403 41 no
AML_ALERT AMLAlert 403 42 no
FX_RATE_EXPIRED FXRateExpired 400 50 no
FX_RATE_NOT_FOUND FXRateNotFound 404 51 yes
SLIPPAGE_EXCEEDED SlippageExceeded 400 52 no
ISSUER_UNAVAILABLE IssuerUnavailable 503 60 yes
ACQUIRER_UNAVAILABLE AcquirerUnavailable 503 61 yes
VISA_SYSTEM_ERROR VisaSystemError 500 62 yes
SERVICE_UNAVAILABLE ServiceUnavailable 503 63 yes
RATE_LIMIT_EXCEEDED RateLimitExceeded 429 70 yes
JWE_ENCRYPT_ERROR JWEEncryptError 500 80 no
JWE_DECRYPT_ERROR JWEDecryptError 500 81 no
JWKS_UNAVAILABLE JWKSUnavailable 503 82 yes
UNKNOWN_ERROR UnknownError 500 99 no
"""
ENTRIES = list(error_table().values())
BY_KEY = pytest.mark.parametrize("entry", ENTRIES, ids=[entry.key for entry in ENTRIES])


def error(status: int, code: str = "3001") -> Answered:
    return Answered(status, {}, {"responseStatus": {"status": status, "code": code}}, None, "corr-7", 0.1)


def result(action_code: str, **more: str) -> Answered:
    body = {"transactionIdentifier": 587010322176105, "actionCode": action_code, "responseCode": "5", **more}
    return Answered(200, {}, body, None, "corr-7", 0.1)


def described(exchange: Exchange, rail: str = "CARD") -> VisaErrorContext | None:
    return describe(outcome_of_push(exchange), rail=rail, corridor="US-MX")


def named(exchange: Exchange, rail: str = "CARD") -> str:
    context = described(exchange, rail)
    assert context is not None
    return context.name


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_table_is_the_published_one() -> None:
    """B9: 34 entries with their names, statuses, codes and what their authors call retryable; 9 are."""
    rows = [line.split() for line in PUBLISHED.split("\n") if line]
    written = [
        [entry.key, entry.name, str(entry.http_status), entry.code, "yes" if entry.retryable else "no"]
        for entry in ENTRIES
    ]
    assert written == rows
    assert (len(rows), sum(entry.retryable for entry in ENTRIES)) == (34, 9)


@BY_KEY
def test_every_entry_says_what_happened_and_what_to_do(entry: VisaError) -> None:
    """B9, S1-04: a sentence of each; the advice speaks of a retry exactly where the table calls it retryable."""
    assert len(entry.message) > 20
    assert len(entry.recommended_action) > 20
    assert ("retry" in entry.recommended_action.lower()) is entry.retryable


def test_there_are_ten_categories_and_all_are_used() -> None:
    """S1-05."""
    assert len(ErrorCategory) == 10
    assert {entry.category for entry in ENTRIES} == set(ErrorCategory)


def test_every_reason_is_one_that_somebody_gives() -> None:
    """A name for a code that nobody gives is a name that nobody will ever see."""
    sources = [*(ROOT / "processors").rglob("*.py"), *(ROOT / "streams").rglob("*.py")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in sources if file.name != "errors.py")
    known = {*ReasonCode, *ComplianceReason, *FailureCause, *(f"REPLY_{problem}" for problem in BodyProblem)}
    for entry in ENTRIES:
        for reason in entry.reasons:
            assert reason in known or reason.startswith("HTTP_") or f'"{reason}"' in code, reason


@pytest.mark.parametrize("cause", list(FailureCause))
def test_every_failure_of_a_call_has_a_name(cause: FailureCause) -> None:
    """S1-04."""
    assert error_named(cause) is not None


@pytest.mark.parametrize("code", sorted(CREDENTIAL_CODES))
def test_a_400_that_speaks_of_credentials_is_named_so(code: str) -> None:
    """S1-04: the gateway's own codes for them come with a 400, which is otherwise about the request."""
    context = described(error(400, code))
    assert context is not None
    assert (context.name, context.handling, context.visa_code) == ("Unauthorized", Handling.SYSTEMIC, code)
    assert named(error(400)) == "BadRequest"


# --- what it says agrees with what the outcome tree decides ----------------------------------------------------------


@BY_KEY
def test_an_entry_is_handled_as_the_outcome_tree_handles_its_answer(entry: VisaError) -> None:
    """B9, S9: the table's handling of an answer of Visa is the tree's, whatever the table calls retryable."""
    if entry.origin is Origin.VISA:
        assert handling_of(outcome_of_push(error(entry.http_status))) is entry.handling


@BY_KEY
def test_no_entry_of_an_ambiguous_answer_is_final(entry: VisaError) -> None:
    """B9, S4: what may have been paid never ends by a name; also where the status is only part of the name."""
    if outcome_of_push(error(entry.http_status)).kind is OutcomeKind.UNKNOWN:
        assert entry.handling is not Handling.FINAL


def test_where_the_published_table_would_pay_twice_ours_asks() -> None:
    """B9, S3: six entries are called retryable although the payout may have taken effect; one is called final so."""
    called_retryable = {entry.key for entry in ENTRIES if entry.retryable and entry.handling is Handling.UNKNOWN}
    assert called_retryable == {
        "NETWORK_TIMEOUT", "NETWORK_ERROR", "ISSUER_UNAVAILABLE", "ACQUIRER_UNAVAILABLE", "VISA_SYSTEM_ERROR",
        "SERVICE_UNAVAILABLE",
    }  # fmt: skip
    undecryptable = outcome_of_push(Answered(200, {}, None, BodyProblem.UNDECRYPTABLE, "corr-7", 0.1))
    context = describe(undecryptable, rail="CARD", corridor="US-MX")
    assert context is not None
    assert (context.name, context.retryable, context.handling) == ("JWEDecryptError", False, Handling.UNKNOWN)


def test_what_is_handled_as_sendable_again_took_no_effect() -> None:
    """S4, S9: over every status and every failure, only what is definite for its attempt is more than UNKNOWN."""
    exchanges: list[Exchange] = [error(status) for status in range(201, 600)]
    exchanges += [Failed(sent, cause) for sent in (False, True) for cause in FailureCause]
    exchanges += [result(f"{code:02}") for code in range(100)]
    seen = set()
    for exchange in exchanges:
        outcome = outcome_of_push(exchange)
        handling = handling_of(outcome)
        context = describe(outcome, rail="CARD", corridor="US-MX")
        assert (context is None) is (handling is None)
        if outcome.kind in (OutcomeKind.UNKNOWN, OutcomeKind.OPERATOR):
            assert handling is Handling.UNKNOWN
        if handling in (Handling.RETRYABLE, Handling.SYSTEMIC):
            assert outcome.kind is OutcomeKind.REFUSED
            assert not (isinstance(exchange, Failed) and exchange.bytes_sent)
        if handling is Handling.FINAL:
            assert outcome.kind is OutcomeKind.DECLINED or outcome.refusal is Refusal.REQUEST_INVALID
        seen.add(handling)
    assert seen == {None, *Handling}


def test_a_call_is_handled_as_its_outcome_not_as_the_entry_of_its_name() -> None:
    """S4: before the first byte a time-out is nothing, afterwards it is everything; the name is the same."""
    before, after = (described(Failed(sent, FailureCause.WRITE_TIMEOUT)) for sent in (False, True))
    assert before is not None
    assert after is not None
    assert before.name == after.name == "NetworkTimeout"
    assert (before.handling, after.handling) == (Handling.RETRYABLE, Handling.UNKNOWN)


@pytest.mark.parametrize(
    ("exchange", "name", "handling"),
    [
        (error(500), "VisaSystemError", Handling.UNKNOWN),
        (error(502), "ServiceUnavailable", Handling.UNKNOWN),
        (error(503), "ServiceUnavailable", Handling.UNKNOWN),
        (error(504), "NetworkTimeout", Handling.UNKNOWN),
        (error(408), "NetworkTimeout", Handling.UNKNOWN),
        (error(409), "DuplicateTransaction", Handling.UNKNOWN),
        (error(422), "MissingRequiredField", Handling.UNKNOWN),
        (error(418), "UnknownError", Handling.UNKNOWN),
        (error(405), "UnknownError", Handling.SYSTEMIC),
        (error(401), "Unauthorized", Handling.SYSTEMIC),
        (error(403), "Forbidden", Handling.SYSTEMIC),
        (error(404), "CardNotFound", Handling.SYSTEMIC),
        (error(429), "RateLimitExceeded", Handling.RETRYABLE),
        (result("91"), "IssuerUnavailable", Handling.UNKNOWN),
        (result("94"), "DuplicateTransaction", Handling.UNKNOWN),
        (result("10"), "UnknownError", Handling.UNKNOWN),
        (result("ZZ"), "UnknownError", Handling.UNKNOWN),
        (Answered(200, {}, None, BodyProblem.EMPTY, None, 0.1), "UnknownError", Handling.UNKNOWN),
        (Answered(202, {}, None, BodyProblem.EMPTY, None, 0.1), "UnknownError", Handling.UNKNOWN),
        (Failed(False, FailureCause.CONNECT_FAILED), "NetworkError", Handling.RETRYABLE),
        (Failed(True, FailureCause.SERVER_DISCONNECTED), "NetworkError", Handling.UNKNOWN),
        (Failed(True, FailureCause.CLIENT_CERTIFICATE_REFUSED), "CertificateInvalid", Handling.UNKNOWN),
        (Failed(False, FailureCause.SERVER_CERTIFICATE_INVALID), "CertificateInvalid", Handling.RETRYABLE),
        (Failed(False, FailureCause.ENCRYPTION_FAILED), "JWEEncryptError", Handling.SYSTEMIC),
    ],
)
def test_what_a_call_came_to_has_a_name(exchange: Exchange, name: str, handling: Handling) -> None:
    """B9, S1-04, S0-25: also 502 and 504, which the published table leaves out."""
    context = described(exchange)
    assert context is not None
    assert (context.name, context.handling) == (name, handling)


def test_a_404_is_named_after_the_rail() -> None:
    """S1-04: the context has the rail and the corridor."""
    assert [named(error(404), rail) for rail in ("CARD", "ACCOUNT", "WALLET")] == [
        "CardNotFound",
        "AccountNotFound",
        "WalletNotFound",
    ]
    context = described(error(404, "9001"), "WALLET")
    assert context is not None
    assert (context.rail, context.corridor, context.http_status, context.visa_code) == ("WALLET", "US-MX", 404, "9001")
    assert context.visa_correlation_id == "corr-7"


@pytest.mark.parametrize("exchange", [result("00"), result("11"), Answered(202, {}, {"statusIdentifier": "s-1"})])
def test_what_is_no_error_has_no_name(exchange: Answered) -> None:
    """Paid, and not finished yet."""
    assert described(exchange) is None
    assert describe(Outcome(OutcomeKind.NOT_FOUND, "QUERY_NOT_FOUND"), rail="CARD", corridor="US-MX") is None


# --- two tables, never one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted({*(f"{number:02}" for number in range(100)), *action_codes()}))
def test_an_action_code_is_never_looked_up_among_the_tables_own_codes(code: str) -> None:
    """B9: 51 is no missing rate, 61 no acquirer that is away, 62 no error of Visa's: they are declines."""
    context = described(result(code))
    if context is None:
        assert code in ("00", "11")
        return
    if handling_of(outcome_of_push(result(code))) is Handling.FINAL:
        assert context.name == "TransactionDeclined"
    else:
        assert context.name in ("IssuerUnavailable", "DuplicateTransaction", "UnknownError")
        assert context.handling is Handling.UNKNOWN
    meaning = action_codes().get(code)
    if code != "94":
        assert (context.visa_code, context.visa_meaning) == (code, meaning.meaning if meaning else None)


@pytest.mark.parametrize("code", ["51", "61", "62", "14", "41", "12"])
def test_the_codes_that_collide_are_declines_with_a_meaning_of_their_own(code: str) -> None:
    """B9: each of them is an entry of the error table, too, and three of those are called retryable."""
    assert code in {entry.code for entry in ENTRIES}
    context = described(result(code))
    assert context is not None
    assert (context.name, context.handling, context.retryable) == ("TransactionDeclined", Handling.FINAL, False)
    assert context.visa_meaning == action_codes()[code].meaning


def test_a_decline_that_a_query_shows_is_named_a_decline() -> None:
    """S5: a COMPLETED row with a code that declines nothing by itself declines."""
    row = {
        "statusCode": "COMPLETED",
        "actionCode": "91",
        "transactionType": "CRED VOUCHER",
        "amount": 10,
    }
    outcome = outcome_of_query(Answered(200, {}, [row], None, None, 0.1), "10.00", "USD")
    assert outcome.kind is OutcomeKind.DECLINED
    context = describe(outcome, rail="CARD", corridor="US-MX")
    assert context is not None
    assert context.name == "TransactionDeclined"


# --- our own reason codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason_code", "key"),
    [
        ("RECEIPT_REUSED", "RECEIPT_REUSED"),
        ("WATCH_LIST_MATCH", "SANCTIONS_MATCH"),
        ("REVIEW_REJECTED", "COMPLIANCE_DENIED"),
        ("QUOTE_EXPIRED", "FX_RATE_EXPIRED"),
        ("EXPIRED", "TRANSACTION_EXPIRED"),
        ("HTTP_400_3001", "BAD_REQUEST"),
        ("HTTP_503", "SERVICE_UNAVAILABLE"),
        ("ACTION_CODE_51", "TRANSACTION_DECLINED"),
        ("ACTION_CODE_91", "ISSUER_UNAVAILABLE"),
        ("ACTION_CODE_00", None),
        ("RETRY_BUDGET_SPENT", None),
        ("SCREENING_CLEAR", None),
    ],
)
def test_a_reason_code_of_a_result_has_its_entry(reason_code: str, key: str | None) -> None:
    """S1-04: what `payouts show` advises by; what is no error of the table stays without a name."""
    entry = error_named(reason_code)
    assert (None if entry is None else entry.key) == key


def test_the_type_of_a_metric_is_coarse() -> None:
    """S1-22: certificate, jwks, mle, network and the other categories."""
    types = {entry.key: entry.error_type for entry in ENTRIES}
    assert types["CERTIFICATE_INVALID"] == "certificate"
    assert types["JWKS_UNAVAILABLE"] == "jwks"
    assert types["JWE_DECRYPT_ERROR"] == "mle"
    assert types["NETWORK_TIMEOUT"] == "network"
    assert types["RATE_LIMIT_EXCEEDED"] == "rate_limit"


# --- a table that is not what it should be -------------------------------------------------------------------------


def a_table(**changes: object) -> str:
    entry: dict[str, object] = {
        "name": "UnknownError",
        "http_status": 500,
        "code": "99",
        "retryable": False,
        "category": "system",
        "origin": "visa",
        "handling": "unknown",
        "message": "None of the other names fits.",
        "recommended_action": "Read the reason code and the log line.",
        "reasons": [],
    }
    return yaml.safe_dump({"errors": {"UNKNOWN_ERROR": {**entry, **changes}}})


def test_the_smallest_table_is_read() -> None:
    """The refusals below are about what they change."""
    assert parse_errors(a_table())["UNKNOWN_ERROR"].name == "UnknownError"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (a_table(http_status=200), "http_status"),
        (a_table(http_status=[500]), "http_status"),
        (a_table(http_status="500"), "http_status"),
        (a_table(retryable="no"), "retryable"),
        (a_table(retryable=True), "say retry"),
        (a_table(recommended_action="Please retry it by and by."), "say retry"),
        (a_table(recommended_action="Look."), "sentence"),
        (a_table(category="other"), "category"),
        (a_table(handling="maybe"), "handling"),
        (a_table(origin="theirs"), "origin"),
        (a_table(name=""), "texts"),
        (a_table(code=99), "texts"),
        (a_table(reasons=["lower"]), "reason codes"),
        (a_table(reasons="HTTP_500"), "reason codes"),
        (a_table(reasons=["HTTP_500", "HTTP_500"]), "HTTP_500"),
        (a_table(more=1), "exactly"),
        (a_table().replace("UNKNOWN_ERROR", "OTHER_ERROR"), "UNKNOWN_ERROR"),
        (a_table().replace("UNKNOWN_ERROR", "lower"), "capital"),
        ("errors: {A: 1, A: 2}", "twice"),
        ("errors: [1]", "one mapping"),
        ("errors: {", "YAML"),
        ("[", "YAML"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_refused(text: str, problem: str) -> None:
    """B9: at start, with the entry and what is wrong."""
    with pytest.raises(ErrorsInvalid, match=problem):
        parse_errors(text)


def test_the_module_draws_the_tree_that_the_code_follows() -> None:
    """The four branches stand in the docstring; an outcome that no branch names would be no error by mistake."""
    assert all(handling.name in (module.__doc__ or "") for handling in Handling)
    refused = Outcome(OutcomeKind.REFUSED, "HTTP_429", refusal=Refusal.RATE_LIMITED)
    for refusal in Refusal:
        assert handling_of(replace(refused, refusal=refusal)) is not None
        assert refusal.name in (module.__doc__ or "")
