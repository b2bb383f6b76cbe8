"""Certificates and keys are renewed while two workers have hundreds of calls in flight; `make rotation` does 5,000.

To see it fail: let `ClientSource.replace` close the connection before it, whatever is under way on it, or let
`MessageEncryption` forget the keys of the one before.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.rotation import IN_FLIGHT_MIN, Options, Rotation, Servers
from sandbox.servers.visa_stand_in import VisaStandIn

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]  # the run has its own, which say what was late

PAYOUTS = 600
"""More than both workers may have in flight at once: the rest goes over what is new."""
LATENCY_SECONDS = 24.0
"""Nothing is answered before the third swap is over, also on a busy machine; then the run ends it."""
SWAPS = ("certificate by signal", "keys beside by signal", "keys new by signal")


def test_no_payout_notices_that_certificate_and_keys_are_renewed_under_200_calls(
    kafka_bootstrap: str, database_url: str, topic_prefix: str, own_visa: VisaStandIn, tmp_path: Path
) -> None:
    """B5, S0-05, S0-06, S0-13, P1, P2: lost=0 double=0, each payout paid by its first and only call."""
    servers = Servers(
        bootstrap_servers=kafka_bootstrap, database_url=database_url, visa=own_visa, topic_prefix=topic_prefix
    )
    outcome = Rotation(
        Options(payouts=PAYOUTS, latency_seconds=LATENCY_SECONDS, swaps=SWAPS), servers, tmp_path
    ).carry_out()
    said = (outcome.line(), *outcome.problems, *(swap.line() for swap in outcome.swaps))
    assert [swap.name for swap in outcome.swaps] == list(SWAPS), said
    assert min(swap.in_flight_least for swap in outcome.swaps) >= IN_FLIGHT_MIN, said
    assert outcome.verdict is not None
    assert (outcome.verdict.count("lost"), outcome.verdict.count("double")) == (0, 0), said
    assert (outcome.verdict.counts["payouts"], outcome.verdict.counts["paid"]) == (PAYOUTS, PAYOUTS), said
    assert outcome.clean, said
