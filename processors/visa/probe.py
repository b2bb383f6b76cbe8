"""Trying a connection to Visa without money, and what the first calls over a new one prove about it. Pure.

    GREETING   GET /vdp/helloworld              name resolution, TLS, our certificate, user id and password
    QUESTION   a query for a transaction that   message encryption: the answer is encrypted to the key that we say is
               cannot exist                     ours, or Visa refuses the key id

Neither moves money, takes a number of ours, or names a payout. What no question can prove is that Visa can read what
we encrypt: every call that carries a body moves money. So the first call over a new connection is watched (`condemns`).
"""

from typing import Final

from processors.payout.outcome import Refusal
from processors.visa.exchange import Answered, BodyProblem, Exchange, FailureCause
from processors.visa.identity import Operation
from processors.visa.outcome import outcome_of_push
from processors.visa.requests import VISA_PATHS, Paths, VisaRequest

GREETING_PATH: Final = "/vdp/helloworld"
"""Visa's own page for trying a connection: it answers a greeting and moves no money."""
GREETING: Final = VisaRequest(operation=Operation.CONNECTION_PROBE, method="GET", path=GREETING_PATH)
NO_TRANSACTION: Final = "999999999999999"
"""Has the form of a transaction identifier; Visa's begin with smaller digits."""

_OF_THE_MATERIAL: Final = frozenset(
    {
        FailureCause.TLS_HANDSHAKE_FAILED,
        FailureCause.SERVER_CERTIFICATE_INVALID,
        FailureCause.CLIENT_CERTIFICATE_REFUSED,
    }
)


def question(acquiring_bin: str, paths: Paths = VISA_PATHS) -> VisaRequest:
    """A query that finds nothing; its answer comes encrypted."""
    query = (("acquiringBIN", acquiring_bin), ("transactionIdentifier", NO_TRANSACTION))
    return VisaRequest(operation=Operation.CONNECTION_PROBE, method="GET", path=paths.transaction_query, query=query)


def greeting_failure(exchange: Exchange) -> str | None:
    """Why Visa did not greet us; None when it did."""
    if not isinstance(exchange, Answered):
        return f"Visa cannot be reached: {exchange.cause}"
    if exchange.status in (401, 403):
        return f"Visa refuses our certificate, user id or password: HTTP {exchange.status}"
    return None if exchange.status == 200 else f"Visa answers the greeting with HTTP {exchange.status}"


def question_failure(exchange: Exchange) -> str | None:
    """Why message encryption cannot work; None when nothing speaks against it. An empty list and 404 are answers."""
    if not isinstance(exchange, Answered):
        return f"Visa does not answer a question: {exchange.cause}"
    if exchange.body_problem == BodyProblem.UNDECRYPTABLE:
        return "the answer is encrypted to another key than ours"
    if outcome_of_push(exchange).refusal is Refusal.CREDENTIALS:
        return f"Visa refuses our key id or credentials: HTTP {exchange.status}"
    return None if exchange.status < 500 else f"Visa answers a question with HTTP {exchange.status}"


def condemns(exchange: Exchange) -> bool:
    """Whether what a call came to speaks against certificate, password or keys, whatever it means for its payout."""
    if not isinstance(exchange, Answered):
        return exchange.cause in _OF_THE_MATERIAL
    if exchange.body_problem == BodyProblem.UNDECRYPTABLE:
        return True
    return outcome_of_push(exchange).refusal is Refusal.CREDENTIALS


def absolves(exchange: Exchange) -> bool:
    """Whether Visa could read what we sent, and we what it answered: nothing is left to be watched."""
    return isinstance(exchange, Answered) and exchange.status in (200, 202, 303) and exchange.body_problem is None


def is_refused_as_invalid(exchange: Exchange) -> bool:
    """HTTP 400: a fault of the one payout, or, if everybody hears it, of what we encrypt."""
    return isinstance(exchange, Answered) and outcome_of_push(exchange).refusal is Refusal.REQUEST_INVALID
