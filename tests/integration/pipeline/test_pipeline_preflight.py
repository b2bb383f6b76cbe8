"""Asked first, then paid: card, ineligible card, alias over the real pipeline; the stand-in's ledger is the judge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.pipeline.pipeline_harness import Pipeline, assert_paid_once, one_event

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

NUMBERED = ("attributes", "validation", "push")
"""What carries STAN and RRN."""


def _abroad(pipeline: Pipeline, destination: dict[str, Any], rate: str = "0.79") -> dict[str, Any]:
    corridor = {"source_country": "US", "target_country": "GB", "source_currency": "USD", "target_currency": "GBP"}
    quote = {"quote_id": "quote-1", "rate": rate, "expires_at": datetime.now(UTC) + timedelta(minutes=10)}
    return pipeline.request(destination=destination, corridor=corridor, fx_quote=quote)


def _card(pipeline: Pipeline, number: str) -> dict[str, Any]:
    sealed = pipeline.seal({"primary_account_number": number, "expiry": "2031-12"})
    return {"kind": "CARD", "card": {"encrypted_card": sealed}}


def test_b3_what_may_be_paid_is_asked_first(running: Pipeline) -> None:
    """B3, B4, B8, S1: four are paid once; two are refused before any push, and their funding is demanded back."""
    alias = {"alias_type": "EMAIL", "encrypted_alias": running.seal({"alias": "rosalind@example.com"})}
    requests = {
        "card": _abroad(running, _card(running, "4957030420210462")),
        "alias": _abroad(running, {"kind": "ALIAS", "alias": alias}),
        "same card": _abroad(running, _card(running, "4957030420210454")),
        "token": _abroad(running, {"kind": "CARD", "card": {"token_reference": "tok_approve_1"}}),
        "blocked": _abroad(running, _card(running, "4000000000000101")),
        "moved": _abroad(running, _card(running, "4957030420210454"), rate="0.70"),
    }
    ids = {name: request["payout_id"] for name, request in requests.items()}
    running.send_many(requests.values())
    paid = [ids[name] for name in ("card", "alias", "same card", "token")]
    refused = [ids[name] for name in ("blocked", "moved")]
    running.wait_all(paid)
    running.wait_all(refused, state="FAILED")
    assert_paid_once(running, paid)
    reasons = [running.row(payout_id)["reason_code"] for payout_id in refused]
    assert reasons == ["CARD_NOT_ELIGIBLE", "SLIPPAGE_EXCEEDED"]
    assert [running.visa_entries(payout_id) for payout_id in refused] == [[], []], "nothing was tried"
    for payout_id in refused:
        demand = one_event(running.events_of("payout_failed_requires_compensation", payout_id))
        assert running.decode("PayoutFailedRequiresCompensation", demand.value)["executor"] == "ORIGINATOR"
    by_alias, by_number = (running.approved(ids[name])[0]["recipient_fingerprint"] for name in ("alias", "same card"))
    assert by_alias == by_number, "the alias was paid to its card"
    asked = [call for call in running.visa_requests() if call["operation"] in NUMBERED]
    numbers = [(call["stan"], call["rrn"]) for call in asked]
    assert {call["operation"] for call in asked} == set(NUMBERED)
    assert len(set(numbers)) == len(numbers), "a question shares numbers with another, or with a push"
