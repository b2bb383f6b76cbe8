"""The table of account payout statuses (`account_statuses.yaml`), read once and refused when it is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

import yaml

from processors.payout.outcome import OutcomeKind
from processors.visa.unique_yaml import RepeatedKey, load_unique

# Visa's Account & Wallet reference; the table must say something about each, and about nothing else.
STATUSES: Final = frozenset(
    {
        "PAYMENT_RECEIVED", "AWAITING_INFORMATION", "PAYMENT_SENT", "PAYMENT_DELIVERED", "PENDING_CANCELLATION",
        "CANCELLED", "RETURNED", "REJECTED", "DELIVERED_TO_SCHEME", "DELIVERED_TO_RECIPIENT_BANK",
    }
)  # fmt: skip
# S8: one status is paid. No edit of the table may make another one so.
DELIVERED: Final = "PAYMENT_DELIVERED"
_OUTCOMES: Final = {
    kind.value: kind for kind in (OutcomeKind.PENDING, OutcomeKind.PAID, OutcomeKind.DECLINED, OutcomeKind.RETURNED)
}


class AccountStatusesInvalid(Exception):
    """The table cannot be trusted to decide about money; the text says which entry is wrong."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One line of the table: what the status means, and what it has proven."""

    status: str
    meaning: str
    outcome: OutcomeKind


@cache
def account_statuses() -> Mapping[str, AccountStatus]:
    """The table by status. Raises AccountStatusesInvalid."""
    name = "account_statuses.yaml"
    return parse_account_statuses(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def parse_account_statuses(text: str) -> Mapping[str, AccountStatus]:
    """The table from its text, checked. Raises AccountStatusesInvalid."""
    try:
        document = load_unique(text)
    except RepeatedKey as error:
        raise AccountStatusesInvalid(str(error)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise AccountStatusesInvalid(f"the file is not acceptable YAML ({type(error).__name__})") from None
    entries = document.get("statuses") if isinstance(document, dict) and set(document) == {"statuses"} else None
    if not isinstance(entries, dict) or set(entries) != STATUSES:
        raise AccountStatusesInvalid("the file must hold one mapping named statuses, of exactly Visa's ten")
    return MappingProxyType({str(status): _entry(str(status), entry) for status, entry in entries.items()})


def _entry(status: str, entry: object) -> AccountStatus:
    if not isinstance(entry, dict) or set(entry) != {"meaning", "outcome"}:
        raise AccountStatusesInvalid(f"{status} must have exactly meaning and outcome")
    outcome = _OUTCOMES.get(str(entry["outcome"]))
    if outcome is None or not isinstance(entry["meaning"], str) or not entry["meaning"]:
        raise AccountStatusesInvalid(f"{status} needs a meaning and one of {sorted(_OUTCOMES)}")
    if (outcome is OutcomeKind.PAID) is not (status == DELIVERED):
        raise AccountStatusesInvalid(f"{status}: {DELIVERED} is paid, and nothing else is (S8)")
    return AccountStatus(status, entry["meaning"], outcome)
