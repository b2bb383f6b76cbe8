"""S1-04, S0-20: what went wrong at Visa is counted by its published name, on the rail that it went wrong on."""

from __future__ import annotations

import pytest

from processors.payout.events import CallKind
from processors.payout.outcome import Outcome, OutcomeKind, Refusal
from processors.payout.row import DestinationKind
from streams.metrics import Metrics
from streams.visa_errors import count_retry, named
from tests.unit.payout.conftest import build_row

NOT_THERE = Outcome(OutcomeKind.REFUSED, "HTTP_404", refusal=Refusal.WRONG_ENDPOINT, http_status=404, systemic=True)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DestinationKind.CARD, "CardNotFound"),
        (DestinationKind.ACCOUNT, "AccountNotFound"),
        (DestinationKind.WALLET, "WalletNotFound"),
    ],
)
def test_an_error_has_the_name_of_its_payouts_rail(kind: DestinationKind, name: str) -> None:
    """S1-04: the context has the rail."""
    row = build_row(destination_kind=kind)
    assert named(Metrics(), row, NOT_THERE)["error_name"] == name


@pytest.mark.parametrize("call", [CallKind.PUSH, CallKind.ACCOUNT_SEND])
def test_a_second_attempt_on_any_rail_is_counted(call: CallKind) -> None:
    """S0-20: and the first is not."""
    metrics = Metrics()
    for attempts in (1, 2):
        count_retry(metrics, build_row(attempts=attempts), call, NOT_THERE)
    labels = {"operation": call.value, "status_code": "404"}
    assert metrics.registry.get_sample_value("retry_attempt_total", labels) == 1
