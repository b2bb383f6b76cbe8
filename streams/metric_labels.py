"""Labels of metrics whose values come from outside, bounded: what has no seat is counted under `other`.

A series costs every worker and every Prometheus memory for as long as it lives, so nobody who sends requests may make
new ones: corridors are those of the policy, currencies those of ISO 4217, originators the listed ones and then those
who come first. The number of combinations is bounded as well. None is a payout, a card, a name or free text (P6).
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from processors.money import is_currency
from processors.payout.row import PayoutRow
from processors.visa.action_codes import action_codes
from schemas.card_numbers import looks_like_card_number

OTHER: Final = "other"
ORIGINATORS_MAX: Final = 20
"""Originators with a label of their own, the listed ones included: a dashboard shows no more, and each multiplies
with corridors, rails and ends."""
CORRIDORS_MAX: Final = 64
"""Pairs of countries with a label of their own."""
COMBINATIONS_MAX: Final = 2_000
"""Label sets of one metric: whoever comes later is counted as `other` in `other`."""
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Seats:
    """Gives names a label of their own while there are seats; `listed` ones have theirs from the beginning."""

    def __init__(self, seats_max: int, listed: Iterable[str] = ()) -> None:
        self._seats_max = seats_max
        self._taken = set(list(listed)[:seats_max])

    def label(self, name: str) -> str:
        """The name itself, or `other`. One that could be a card number or a sentence gets no seat."""
        if name in self._taken:
            return name
        full = len(self._taken) >= self._seats_max
        if full or not _PLAIN_NAME.fullmatch(name) or looks_like_card_number(name):
            return OTHER
        self._taken.add(name)
        return name


class PayoutLabels:
    """What a payout is counted under. Known corridors and listed originators are set once the policy is read."""

    def __init__(self, corridors: Collection[str] = (), originators: Iterable[str] = ()) -> None:
        """`corridors` as `US-GB`."""
        self._corridors = frozenset(sorted(corridors)[:CORRIDORS_MAX])
        self._originators = Seats(ORIGINATORS_MAX, originators)
        self._combinations: set[tuple[str, ...]] = set()

    def corridor(self, row: PayoutRow) -> str:
        """As the policy has it."""
        name = f"{row.source_country}-{row.target_country}"
        return name if name in self._corridors else OTHER

    def originator(self, row: PayoutRow) -> str:
        """Only payouts that a policy serves take a seat: whoever sends rubbish gets none."""
        return OTHER if self.corridor(row) == OTHER else self._originators.label(row.originator_id)

    def end(self, status: str, row: PayoutRow) -> tuple[str, str, str, str]:
        """status, corridor, rail, originator: the one set of labels that multiplies."""
        labels = (status, self.corridor(row), rail(row), self.originator(row))
        if labels not in self._combinations:
            if len(self._combinations) >= COMBINATIONS_MAX:
                return (status, OTHER, rail(row), OTHER)
            self._combinations.add(labels)
        return labels


def rail(row: PayoutRow) -> str:
    """card, account, wallet, alias, unspecified."""
    return row.destination_kind.value.lower()


def currency(code: str) -> str:
    """A currency of ISO 4217, in capitals."""
    return code if is_currency(code) else OTHER


def action_code(code: str) -> str:
    """One of the table's."""
    return code if code in action_codes() else OTHER
