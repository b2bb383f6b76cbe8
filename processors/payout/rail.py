"""Which calls a payout is made of: the row's destination says it, and nothing ever changes it (rule S3).

card               PUSH           QUERY, STATUS    a duplicate key for 24 h: the same may be sent again after a query
account, wallet    ACCOUNT_SEND   ACCOUNT_QUERY    no duplicate key: what may have arrived is never sent again
"""

from processors.payout.events import CallKind
from processors.payout.row import PayoutRow, PayoutState


def submission_of(row: PayoutRow) -> CallKind:
    """The call that pays the recipient."""
    return CallKind.ACCOUNT_SEND if row.is_account_payout else CallKind.PUSH


def question_about(row: PayoutRow) -> CallKind:
    """The call that asks what became of it."""
    return CallKind.ACCOUNT_QUERY if row.is_account_payout else CallKind.QUERY


def may_come_back(row: PayoutRow) -> bool:
    """Whether a paid account payout is still asked about, because it may be returned (rule S8)."""
    paid = row.state is PayoutState.PAID and row.is_account_payout and row.returned_at is None
    return paid and row.due_at is not None
