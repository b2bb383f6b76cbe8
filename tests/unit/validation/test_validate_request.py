"""The table of checks: each refusal has its own code and a reason to act on (K7, L7, B2, B8)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.validation.policy import ComplianceScope, CorridorPolicy, CorridorRules
from processors.validation.reason_codes import EXPLANATIONS, ReasonCode
from processors.validation.request import DestinationKind, parse_request
from processors.validation.validate import Invalid, Valid, ValidationLimits

PLANTED = "4111111111111111"


def test_each_funding_kind_that_is_captured_passes(requests: Any) -> None:
    """B2: INTERNAL confirmed, AFT approved with what a reversal needs, PIS executed."""
    for funding in (requests.internal_funding(), requests.aft_funding(), requests.pis_funding()):
        verdict = requests.verdict(requests.record(funding=funding))
        assert isinstance(verdict, Valid), verdict
        assert verdict.policy_version == requests.policy.stamp  # P7


@pytest.mark.parametrize(
    ("corridor", "amount", "quoted"),
    [
        (("JP", "JP", "JPY", "JPY"), (12000, "JPY"), False),
        (("KW", "KW", "KWD", "KWD"), (12340, "KWD"), False),
        (("GB", "PH", "GBP", "PHP"), (9900, "GBP"), True),
        (("US", "MX", "USD", "MXN"), (5000, "USD"), True),
        (("DE", "FR", "EUR", "EUR"), (5000, "EUR"), False),
    ],
)
def test_shipped_corridors_pay(requests: Any, corridor: Any, amount: Any, quoted: bool) -> None:
    """B8: the shipped policy serves these corridors, with a quote where it asks for one."""
    record = requests.record(
        corridor=requests.corridor(*corridor),
        amount={"amount_minor": amount[0], "currency": amount[1]},
        fx_quote=requests.quote() if quoted else None,
    )
    assert requests.code(record) == "VALID"


def _refusals(requests: Any) -> list[tuple[str, dict[str, Any]]]:
    minute = timedelta(minutes=1)
    card = requests.seal({"primary_account_number": "4957030420210462"})
    gb_ph = requests.corridor("GB", "PH", "GBP", "PHP")
    pounds = {"amount_minor": 5000, "currency": "GBP"}
    nobody = {"sender": {"name": "Mara Lindqvist"}, "recipient": {"name": "Tomas Okafor"}}
    both = {"token_reference": "tok-1", "encrypted_card": card}
    aft, internal, pis = requests.aft_funding, requests.internal_funding, requests.pis_funding

    def destination(kind: str, **records: Any) -> dict[str, Any]:
        return {"kind": kind, "card": None, "account": None, "wallet": None, "alias": None} | records

    return [
        ("PAYOUT_ID_INVALID", {"payout_id": "short"}),
        ("PAYOUT_ID_INVALID", {"payout_id": "has space 123"}),
        ("PAYOUT_ID_INVALID", {"payout_id": "x" * 65}),
        ("PAYOUT_ID_INVALID", {"payout_id": PLANTED}),
        ("PAYOUT_ID_INVALID", {"payout_id": "payout-id\n"}),
        ("FIELD_INVALID", {"originator_id": " "}),
        ("FIELD_INVALID", {"purpose": "x" * 513}),
        ("FIELD_INVALID", {"originator_id": "x" * 129}),
        ("FIELD_INVALID", {"correlation_id": "x" * 129}),
        ("FIELD_INVALID", {"correlation_id": "a\x00b"}),
        ("FIELD_INVALID", {"metadata": {str(number): "" for number in range(65)}}),
        ("FIELD_INVALID", {"business_application_id": "AAA"}),
        ("PERSONAL_DATA_MISSING", {"personal_data": None}),
        ("PERSONAL_DATA_UNREADABLE", {"personal_data": "not a token"}),
        ("PERSONAL_DATA_UNREADABLE", {"personal_data": card}),
        ("FUNDING_INVALID", {"funding": internal() | {"kind": "AFT"}}),
        ("FUNDING_INVALID", {"funding": internal() | {"kind": "SOMETHING_NEW"}}),
        ("FUNDING_INVALID", {"funding": internal() | {"pis": pis()["pis"]}}),
        ("FUNDING_INVALID", {"funding": aft(transaction_identifier=None)}),
        ("FUNDING_INVALID", {"funding": aft(encrypted_card=requests.seal(nobody))}),
        ("FUNDING_INVALID", {"funding": aft(systems_trace_audit_number=1_000_000)}),
        ("FUNDING_INVALID", {"funding": aft(amount={"amount_minor": 12404, "currency": "USD"})}),
        ("FUNDING_INVALID", {"funding": aft(amount={"amount_minor": 99999, "currency": "JPY"})}),
        ("FUNDING_INVALID", {"funding": pis(payment_id="")}),
        ("FUNDING_INVALID", {"funding": pis(payment_id="x" * 256)}),
        ("LEDGER_NOT_CONFIRMED", {"funding": internal(debit_confirmed=False)}),
        ("LEDGER_NOT_CONFIRMED", {"funding": internal(confirmation_ref="")}),
        ("AFT_DECLINED", {"funding": aft(status="DECLINED")}),
        ("FUNDING_NOT_CAPTURED", {"funding": aft(status="UNSPECIFIED")}),
        ("PIS_FAILED", {"funding": pis(status="FAILED")}),
        ("FUNDING_NOT_CAPTURED", {"funding": pis(status="SOMETHING_NEW")}),
        ("CURRENCY_UNKNOWN", {"amount": {"amount_minor": 1, "currency": "XXX"}}),
        ("AMOUNT_NOT_POSITIVE", {"amount": {"amount_minor": 0, "currency": "USD"}}),
        ("AMOUNT_NOT_POSITIVE", {"amount": {"amount_minor": -12405, "currency": "USD"}}),
        ("AMOUNT_NOT_EXPRESSIBLE", {"amount": {"amount_minor": 12345, "currency": "KWD"}}),
        ("AMOUNT_NOT_EXPRESSIBLE", {"amount": {"amount_minor": 2**63 - 1, "currency": "USD"}}),
        ("CLOCK_OFF", {"requested_at": requests.now + timedelta(seconds=6)}),
        ("CLOCK_OFF", {"requested_at": requests.now - timedelta(days=31)}),
        ("CLOCK_OFF", {"requested_at": 0}),
        ("EXPIRED_ON_ARRIVAL", {"expires_at": requests.now}),
        ("EXPIRED_ON_ARRIVAL", {"expires_at": requests.now - minute}),
        ("CURRENCY_MISMATCH", {"amount": {"amount_minor": 100, "currency": "EUR"}}),
        ("CORRIDOR_UNKNOWN", {"corridor": requests.corridor("US", "KP", "USD", "KPW")}),
        ("CORRIDOR_UNKNOWN", {"corridor": requests.corridor("US", "US", "USD", "EUR")}),
        ("CORRIDOR_UNKNOWN", {"corridor": requests.corridor("us", "us", "USD", "USD")}),
        ("DESTINATION_INVALID", {"destination": destination("UNSPECIFIED", card=both)}),
        ("DESTINATION_INVALID", {"destination": destination("CARD")}),
        ("DESTINATION_INVALID", {"destination": destination("CARD", card=both)}),
        ("DESTINATION_INVALID", {"destination": destination("CARD", card=dict.fromkeys(both))}),
        ("DESTINATION_INVALID", {"destination": destination("NEW_RAIL", card=both)}),
        ("DESTINATION_NOT_AVAILABLE", {"destination": destination("ACCOUNT", account={"encrypted_account": card})}),
        ("DESTINATION_NOT_AVAILABLE", {"destination": destination("WALLET", wallet={"encrypted_wallet": card})}),
        (
            "DESTINATION_NOT_ALLOWED",
            {"destination": destination("ALIAS", alias={"alias_type": "EMAIL", "encrypted_alias": card})},
        ),
        (
            "CARD_UNREADABLE",
            {"destination": destination("CARD", card=both | {"token_reference": None} | {"encrypted_card": "junk"})},
        ),
        ("CARD_UNREADABLE", {"destination": requests.card_destination("12")}),
        ("LIMIT_EXCEEDED", {"amount": {"amount_minor": 100_001, "currency": "USD"}}),
        ("QUOTE_REQUIRED", {"corridor": gb_ph, "amount": pounds}),
        ("QUOTE_INVALID", {"corridor": gb_ph, "amount": pounds, "fx_quote": requests.quote(quote_id=" ")}),
        ("QUOTE_INVALID", {"corridor": gb_ph, "amount": pounds, "fx_quote": requests.quote(rate="0.000")}),
        ("QUOTE_INVALID", {"corridor": gb_ph, "amount": pounds, "fx_quote": requests.quote(rate="1e5")}),
        ("QUOTE_INVALID", {"corridor": gb_ph, "amount": pounds, "fx_quote": requests.quote(rate="NaN")}),
        ("QUOTE_EXPIRED", {"corridor": gb_ph, "amount": pounds, "fx_quote": requests.quote(expires_at=requests.now)}),
        (
            "TRAVEL_RULE_INCOMPLETE",
            {
                "corridor": gb_ph,
                "amount": pounds,
                "fx_quote": requests.quote(),
                "personal_data": requests.seal(nobody),
            },
        ),
    ]


def test_each_refusal_has_its_code(requests: Any) -> None:
    """K7: a decodable, invalid request ends with a reason code that a caller can act on."""
    for expected, changes in _refusals(requests):
        verdict = requests.verdict(requests.record(**changes))
        assert isinstance(verdict, Invalid), (expected, sorted(changes))
        assert verdict.reason_code == expected, (expected, sorted(changes), verdict.reason)
        assert verdict.policy_version == requests.policy.stamp  # P7
        assert len(verdict.reason) > 20


def test_every_code_is_reachable_and_explained(requests: Any) -> None:
    """K7: no code without a meaning and advice, and no code that nothing produces."""
    assert set(EXPLANATIONS) == set(ReasonCode)
    assert all(len(item.meaning) > 20 and len(item.advice) > 20 for item in EXPLANATIONS.values())
    elsewhere = {"CARD_NUMBER_IN_CLEAR", "RECEIPT_REUSED", "ACCOUNT_UNREADABLE", "ALIAS_UNREADABLE"}
    produced = {expected for expected, _ in _refusals(requests)}
    assert produced | elsewhere == set(ReasonCode)


def test_a_receipt_of_an_earlier_payout_is_refused(requests: Any) -> None:
    """L7: a captured receipt belongs to its first payout; this one does not own it."""
    for funding in (requests.internal_funding(), requests.aft_funding(), requests.pis_funding()):
        assert requests.code(requests.record(funding=funding), receipt_owned=False) == "RECEIPT_REUSED"


def test_funding_that_was_not_captured_claims_no_receipt(requests: Any) -> None:
    """L7, G4: a declined pull has no receipt to reuse; its own reason is given."""
    record = requests.record(funding=requests.aft_funding(status="DECLINED"))
    assert requests.code(record, receipt_owned=False) == "AFT_DECLINED"


def test_a_small_clock_skew_and_a_late_start_are_tolerated(requests: Any) -> None:
    """design.md 11: 5 s of skew; K5: requests wait out an outage of days."""
    for offset in (timedelta(seconds=5), -timedelta(days=29)):
        assert requests.code(requests.record(requested_at=requests.now + offset)) == "VALID"


def test_a_destination_that_the_corridor_does_not_allow_is_refused(requests: Any) -> None:
    """B8: allowedDestinations is enforced."""
    rules = CorridorRules(False, ComplianceScope.ALL, frozenset({DestinationKind.ACCOUNT}), 100_000)
    policy = CorridorPolicy("accounts-only", "0" * 64, {("US", "US", "USD", "USD"): rules})
    assert replace(requests, policy=policy).code(requests.record()) == "DESTINATION_NOT_ALLOWED"


ACCOUNT = {
    "account_number": "GB33BUKB20201555555555",
    "account_number_type": "IBAN",
    "country": "GB",
    "currency": "GBP",
}
WALLET = {"account_number": "+254700000001", "operator_name": "M-PESA", "country": "KE", "currency": "KES"}
OFFERED = ValidationLimits(accounts_offered=True)


def _to(requests: Any, kind: str, plaintext: dict[str, Any] | None) -> dict[str, Any]:
    sealed = "junk" if plaintext is None else requests.seal(plaintext)
    records: dict[str, Any] = {"kind": kind, "card": None, "account": None, "wallet": None, "alias": None}
    records[kind.lower()] = {f"encrypted_{kind.lower()}": sealed}
    return records


@pytest.mark.parametrize(("kind", "plaintext"), [("ACCOUNT", ACCOUNT), ("WALLET", WALLET)])
def test_accounts_and_wallets_are_paid_where_the_processor_is_enrolled(
    requests: Any, kind: str, plaintext: dict[str, Any]
) -> None:
    """B4, B8: otherwise refused, as is what the corridor does not allow."""
    record = requests.record(destination=_to(requests, kind, plaintext))
    assert requests.code(record) == "DESTINATION_NOT_AVAILABLE"
    assert requests.code(record, limits=OFFERED) == "VALID"
    in_japan = requests.corridor("JP", "JP", "JPY", "JPY")
    elsewhere = requests.record(
        destination=_to(requests, kind, plaintext), corridor=in_japan, amount={"amount_minor": 100, "currency": "JPY"}
    )
    assert requests.code(elsewhere, limits=OFFERED) == "DESTINATION_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("kind", "plaintext"),
    [
        ("ACCOUNT", None),
        ("WALLET", None),
        ("ACCOUNT", WALLET),
        ("WALLET", ACCOUNT),
        ("ACCOUNT", {"primary_account_number": "4957030420210462"}),
        ("ACCOUNT", ACCOUNT | {"account_number_type": "DEFAULT"}),
        ("WALLET", WALLET | {"operator_name": ""}),
        ("WALLET", WALLET | {"operator_name": "a\x00b"}),
    ],
)
def test_an_account_that_cannot_be_read_ends_before_anything_is_sent(
    requests: Any, kind: str, plaintext: dict[str, Any] | None
) -> None:
    """K7, P6: the reason names the rule, never the account."""
    verdict = requests.verdict(requests.record(destination=_to(requests, kind, plaintext)), limits=OFFERED)
    assert isinstance(verdict, Invalid)
    assert verdict.reason_code == ReasonCode.ACCOUNT_UNREADABLE
    assert len(verdict.reason) > 20
    assert not {"2020155555", "254700000001", "4957030420210462"} & set(verdict.reason.split())


def test_l8_how_an_account_is_compared_did_not_change(requests: Any) -> None:
    """L8: the same account is the same content, also re-encrypted and with its members in another order."""
    _, first = requests.opened(requests.record(destination=_to(requests, "ACCOUNT", ACCOUNT)))
    backwards = dict(reversed(ACCOUNT.items()))
    _, again = requests.opened(requests.record(destination=_to(requests, "ACCOUNT", backwards)))
    assert first.destination_details == again.destination_details
    assert first.destination_account == again.destination_account
    assert first.destination_details.canonical.startswith('{"account_number":"GB33')


def _to_alias(requests: Any, plaintext: dict[str, Any], **changes: Any) -> dict[str, Any]:
    alias = {"alias_type": "EMAIL", "encrypted_alias": requests.seal(plaintext)}
    abroad = {"corridor": requests.corridor("US", "GB", "USD", "GBP"), "fx_quote": requests.quote(rate="0.79")}
    destination = {"kind": "ALIAS", "card": None, "account": None, "wallet": None, "alias": alias}
    record: dict[str, Any] = requests.record(destination=destination, **(abroad | changes))
    return record


def test_aliases_are_paid_where_a_corridor_lists_them(requests: Any) -> None:
    """B4, B8: the corridor that lists them; not another; and nowhere under a policy that lists none."""
    assert requests.code(_to_alias(requests, {"alias": "rosalind@example.com"})) == "VALID"
    domestic = {"corridor": requests.corridor("US", "US", "USD", "USD"), "fx_quote": None}
    record = _to_alias(requests, {"alias": "rosalind@example.com"}, **domestic)
    assert requests.code(record) == "DESTINATION_NOT_ALLOWED"
    rules = CorridorRules(False, ComplianceScope.ALL, frozenset({DestinationKind.CARD}), 100_000)
    cards_only = CorridorPolicy("cards-only", "0" * 64, {("US", "US", "USD", "USD"): rules})
    assert replace(requests, policy=cards_only).code(record) == "DESTINATION_NOT_AVAILABLE"


@pytest.mark.parametrize(
    "plaintext", [{"email": "a@b.c"}, {"alias": ""}, {"alias": "a b"}, {"alias": "x" * 129}, {"alias": 1}]
)
def test_an_alias_that_cannot_be_read_ends_before_anything_is_sent(requests: Any, plaintext: dict[str, Any]) -> None:
    """K7, P6: the reason names the rule, never the alias."""
    verdict = requests.verdict(_to_alias(requests, plaintext))
    assert isinstance(verdict, Invalid)
    assert verdict.reason_code == ReasonCode.ALIAS_UNREADABLE
    assert "a@b.c" not in verdict.reason


def test_limit_is_inclusive(requests: Any) -> None:
    """B8: maxValueMinor is the largest payout that passes."""
    assert requests.code(requests.record(amount={"amount_minor": 100_000, "currency": "USD"})) == "VALID"


def _planted(requests: Any, spelling: str) -> list[tuple[str, dict[str, Any]]]:
    gb_ph = requests.corridor("GB", "PH", "GBP", "PHP")
    card = requests.card_destination()
    return [
        ("originator_id", {"originator_id": spelling}),
        ("purpose", {"purpose": spelling}),
        ("correlation_id", {"correlation_id": f"order {spelling}"}),
        ("metadata", {"metadata": {spelling: "x"}}),
        ("metadata", {"metadata": {"note": f"card {spelling}, please"}}),
        ("confirmation_ref", {"funding": requests.internal_funding(confirmation_ref=spelling)}),
        ("receipt_id", {"funding": requests.aft_funding(receipt_id=spelling)}),
        ("approval_code", {"funding": requests.aft_funding(approval_code=spelling)}),
        ("payment_id", {"funding": requests.pis_funding(payment_id=spelling)}),
        ("token_reference", {"destination": card | {"card": {"token_reference": spelling, "encrypted_card": None}}}),
        ("encrypted_card", {"destination": card | {"card": {"token_reference": None, "encrypted_card": spelling}}}),
        ("personal_data", {"personal_data": spelling}),
        ("currency", {"amount": {"amount_minor": 1, "currency": spelling}}),
        ("target_country", {"corridor": gb_ph | {"target_country": spelling}}),
        ("quote_id", {"corridor": gb_ph, "fx_quote": requests.quote(quote_id=spelling)}),
        ("rate", {"corridor": gb_ph, "fx_quote": requests.quote(rate=spelling)}),
        ("business_application_id", {"business_application_id": spelling}),
    ]


@pytest.mark.parametrize("spelling", [PLANTED, "4111 1111 1111 1111", "4111-1111-1111-1111"])
def test_a_card_number_in_clear_is_found_in_every_field_and_never_quoted(requests: Any, spelling: str) -> None:
    """P6, K7: any text field, metadata keys and values and the place of a JWE included."""
    for field_name, changes in _planted(requests, spelling):
        record = requests.record(**changes)
        verdict = requests.verdict(record)
        assert isinstance(verdict, Invalid)
        assert verdict.reason_code == ReasonCode.CARD_NUMBER_IN_CLEAR, field_name
        assert field_name in verdict.reason
        for shown in (verdict.reason, repr(verdict), repr(parse_request(record))):
            assert spelling not in shown
            assert PLANTED not in shown.replace(" ", "").replace("-", "")


def test_visa_s_transaction_identifier_is_no_card_number(requests: Any) -> None:
    """A 15-digit transaction identifier that happens to pass every test for a card number is not refused."""
    funding = requests.aft_funding(transaction_identifier="378282246310005")
    assert requests.code(requests.record(funding=funding)) == "VALID"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_reason_ever_quotes_what_the_originator_sent(requests: Any, data: st.DataObject) -> None:
    """P6: whatever fields are broken, together, the reason holds no value of the request and nothing is raised."""
    refusals = _refusals(requests) if data.draw(st.booleans()) else _planted(requests, PLANTED)
    record = requests.record()
    for _, changes in data.draw(st.lists(st.sampled_from(refusals), min_size=1, max_size=4)):
        record |= changes
    record |= {"metadata": {"k": data.draw(st.text(max_size=20)), PLANTED: "v"}}
    verdict = requests.verdict(record, receipt_owned=data.draw(st.booleans()))
    assert isinstance(verdict, Invalid)
    assert PLANTED not in repr(verdict)
