"""Follows a chain record by record and says what is wrong with it, and goes on (rule L10). Pure.

    chain = Chain("topic")
    for record in records: flaws += chain.take(record, "offset 17")
    flaws += chain.over()

`seal_chain.first_flaw` answers yes or no; here everything that was changed, removed, inserted or put in another order
is named with its place, and one flaw is not told again at every later record.

Restored copies that were adopted (rule L11) leave joints in a chain: the table goes on behind its own old end with the
hash of what was published, the topic keeps the records that the copy had lost. The adoption's own record says where,
and is sealed itself, so that nothing else passes for a joint.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.guard import Verdict
from ledger.seal_chain import ADOPTED, EMPTY, Head, hash_of

MISSING_REMEMBERED_MAX: Final = 100_000
"""Places that are looked for behind later records; beyond that they only count as missing."""
_OTHER_CHAINS: Final = frozenset({Verdict.DIFFERENT.value, Verdict.OTHER_SYSTEM.value, Verdict.OLDER_TIMELINE.value})
"""Verdicts under which an adopted copy may have sealed other records than those that were published."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that is wrong: in which chain, at which record, where that lies, and what it is."""

    chain: str
    """table, topic, or the name of a file."""
    sequence: int | None
    place: str
    what: str
    payout_id: str | None = None


_Says = Callable[[str], Found]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A joint, as its own sealed record tells it: where it stands, and where the restored copy had ended."""

    sequence: int
    verdict: str
    old_sequence: int


class Adoptions:
    """The joints of one database."""

    def __init__(self, adopted: Iterable[Adopted] = ()) -> None:
        self._adopted = list(adopted)

    def explains_other(self, sequence: int) -> bool:
        """Whether the topic may hold another record at this place than the table, or one that the table lacks.

        That is what a restored copy had lost, or, where it had gone on by itself, anything before its adoption.
        """
        return any(
            one.old_sequence < sequence < one.sequence or (one.verdict in _OTHER_CHAINS and sequence < one.sequence)
            for one in self._adopted
        )


class Chain:
    """One chain, record by record in the order in which it lies."""

    def __init__(self, name: str, after: Head = EMPTY) -> None:
        self._name = name
        self._missing: dict[int, None] = {}
        self._lacking = 0
        self.head = after
        self.records = 0
        self.repeats = 0

    def take(self, record: Mapping[str, Any], place: str = "", *, known_content: bool = True) -> Iterator[Found]:
        """What is wrong with the next record. `known_content`: else parts are masked, and only its links are judged."""
        sequence, said = int(record["sequence"]), str(record["hash"])
        self.records += 1

        def found(what: str) -> Found:
            return Found(self._name, sequence, place, what, record.get("payout_id"))

        if known_content and hash_of(str(record["previous_hash"]), record) != said:
            yield found("its content is not what was sealed: it was changed")
        if sequence <= self.head.sequence:
            yield from self._behind(sequence, said, found)
            return
        yield from self._link(record, sequence, found)
        self.head = Head(sequence, said)

    def _behind(self, sequence: int, said: str, found: _Says) -> Iterator[Found]:
        """A record that stands behind a later one: sent again (K2), or in another order."""
        if sequence in self._missing:
            del self._missing[sequence]
            yield found("stands behind later records: the order was changed")
            return
        self.repeats += 1
        if sequence == self.head.sequence and said != self.head.hash:
            yield found("another record stands at this place already: it was inserted")

    def _link(self, record: Mapping[str, Any], sequence: int, found: _Says) -> Iterator[Found]:
        previous = str(record["previous_hash"])
        joint = record["action"] == ADOPTED
        expected = self.head.sequence + 1
        if sequence > expected and not joint:
            self._note_missing(expected, sequence)
            return
        if previous == self.head.hash:
            return
        if not (joint and _names(record, self.head)):
            yield found("does not continue the record before it: one was changed, removed or inserted there")

    def gone(self, sequence: int, said: str, place: str) -> Iterator[Found]:
        """A seal whose line is gone: what it was linked to still is."""
        yield Found(self._name, sequence, place, "its line of the history is gone: it was removed")
        self.records += 1
        self.head = Head(sequence, said)

    def _note_missing(self, first: int, end: int) -> None:
        room = max(0, MISSING_REMEMBERED_MAX - len(self._missing))
        self._missing |= dict.fromkeys(range(first, min(end, first + room)))
        self._lacking += max(0, end - first - room)

    def over(self, last: int | None = None) -> Iterator[Found]:
        """What is missing now that the chain is over; `last`: the record up to which it must reach."""
        if last is not None and last > self.head.sequence:
            self._note_missing(self.head.sequence + 1, last + 1)
        for first, end in _ranges(list(self._missing)):
            what = "is missing: it was removed" if first == end else f"to {end} are missing: they were removed"
            yield Found(self._name, first, "", what)
        if self._lacking:
            yield Found(self._name, None, "", f"{self._lacking} more records are missing")


def _names(record: Mapping[str, Any], head: Head) -> bool:
    """Whether an adoption's record says that the copy ended where this table's chain ends before it."""
    try:
        evidence = json.loads(record["detail"])["evidence"]
        return Head(int(evidence["old_sequence"]), str(evidence["old_hash"])) == head
    except (KeyError, TypeError, ValueError):
        return False


def _ranges(sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of numbers, each with its first and last."""
    first = last = None
    for sequence in sorted(sequences):
        if last is not None and first is not None and sequence != last + 1:
            yield first, last
            first = None
        first = sequence if first is None else first
        last = sequence
    if first is not None and last is not None:
        yield first, last


def compared(
    records: Sequence[tuple[Mapping[str, Any], str]], table: Mapping[int, str], adoptions: Adoptions
) -> Iterator[Found]:
    """Records of the topic that the table says otherwise, each with its place; `table`: hashes by sequence."""
    for record, place in records:
        sequence = int(record["sequence"])
        known = table.get(sequence)
        if known == record["hash"] or adoptions.explains_other(sequence):
            continue
        what = (
            "the ledger has sealed nothing at this place: it was inserted here, or removed there"
            if known is None
            else "the ledger has sealed another record at this place: one of the two was changed"
        )
        yield Found("topic", sequence, place, what, record.get("payout_id"))
