"""From evidence to the verdict line: one pure function, one short check a term (design, section 10).

    verdict = judge(evidence, stuck_after_seconds=60, now=datetime.now(UTC), faults=FaultCounts())
    print(verdict.line())

Money is counted by currency in minor units, each part from a source of its own: accepted by the producer's journal,
paid by the stand-in's ledger, ended unpaid and held (everything still open) by the processor's. Nothing that an
operator says makes a payout paid: a resolution without an entry is a phantom as any other.

Where servers were lost and put back from a backup, both lives are judged together: what the first one acknowledged is
there, or was sent again, or is lost; what it told and did stands, in the stand-in's ledger and with the originators.
The second life may tell the same end again, by another event: its ledger does not know the first.

A term counts subjects, not symptoms: payouts for `double`, `stuck`, `phantom` and `comp_double`; payouts, and records
of which nothing came, for `lost`; entries of the stand-in's ledger for `orphan`; artefacts for `leak`. Whoever has no
result is `lost` to its originator, so a payout that is stuck counts there too: the terms say different things of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Final, TypeVar

from iso4217 import Currency

from sandbox.auditor.evidence import (
    Accepted,
    CompensationDemand,
    CompensationEnd,
    Confirmation,
    Evidence,
    Intake,
    LedgerRow,
    Position,
    ResultEvent,
    StandInEntry,
)
from sandbox.visa_direct.fingerprint import recipient_fingerprint
from schemas.sender_reference import sender_reference

UNKNOWN_DEADLINE: Final = timedelta(hours=23)
"""Nothing is sent again after this age (promise P3): an unknown payout that is older waits for a person."""
NAMES_SHOWN_MAX: Final = 20
"""Payout ids in one sentence; the rest are counted."""

FINGERPRINTS_KEPT: Final = 10_000
"""Load runs pay few recipients often."""

UNPAID_ENDS: Final = ("DECLINED", "REJECTED", "DENIED", "EXPIRED", "FAILED", "CANCELLED")
TERMINAL_STATES: Final = frozenset({"PAID", *UNPAID_ENDS})
# After PAID a return of the money is a second fact with an event of its own (rule S8), not a second end.
RETURNED: Final = "RETURNED"
COMPENSATION_UNDER_WAY: Final = frozenset({"REQUIRED", "RUNNING", "UNKNOWN"})
COMPENSATED: Final = "COMPENSATED"
COMPENSATION_ENDS: Final = frozenset({COMPENSATED, "MANUAL"})
# What pays a recipient, what hands a card pull back, and what takes the payment of an account back (rule S8); any other
# operation than these and a card pull itself is one that we cannot judge.
PAYMENTS: Final = frozenset({"push", "account"})
HAND_BACKS: Final = frozenset({"reverse", "adjustment"})
ACCOUNT_RETURN: Final = "account_return"
OPERATIONS: Final = PAYMENTS | HAND_BACKS | {"funding", ACCOUNT_RETURN}

STATE_TERMS: Final = (
    "paid", "declined", "rejected", "denied", "expired", "failed", "cancelled", "in_review", "held", "unknown",
)  # fmt: skip
ZERO_TERMS: Final = ("lost", "double", "stuck", "phantom", "orphan", "comp_double", "leak")
MONEY_PARTS: Final = ("accepted", "paid", "ended_unpaid", "held")
"""Accepted = paid + ended unpaid + held, exactly."""
Told = TypeVar("Told")
_COUNT_TERMS: Final = ("accepted", "payouts", *STATE_TERMS, "refused", "dead_letters")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCounts:
    """What was done to the system during the run, for the line; `stopped_at` is when the last fault ended."""

    kills: int = 0
    freezes: int = 0
    broker_kills: int = 0
    db_kills: int = 0
    cuts: int = 0
    api_faults: int = 0
    seed: int = 0
    stopped_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the term it belongs to, what it is about (counted once a term), and why."""

    term: str
    subject: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an audit."""

    counts: Mapping[str, int]
    """Every count of the line up to `dead_letters`, and `repeats` and `open`, which the line leaves out."""
    findings: tuple[Finding, ...]
    faults: FaultCounts = field(default_factory=FaultCounts)
    money: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """For each currency, MONEY_PARTS in minor units."""
    states: Mapping[str, int] = field(default_factory=dict)
    """Rows of the ledger in each state, and `compensation NAME` for each compensation that is not NONE."""

    def count(self, term: str) -> int:
        """How many subjects a term has: `lost`, `double`, …, or `conservation`, `conflicting_results`, …"""
        return len({finding.subject for finding in self.findings if finding.term == term})

    @property
    def clean(self) -> bool:
        """Whether every zero is a zero, the counts add up and nothing else is wrong."""
        return not self.findings

    def line(self) -> str:
        """The verdict line, the same everywhere."""
        faults = self.faults
        terms = [(name, self.counts[name]) for name in _COUNT_TERMS]
        terms += [(name, self.count(name)) for name in ZERO_TERMS]
        terms += [("kills", faults.kills), ("freezes", faults.freezes), ("broker_kills", faults.broker_kills)]
        terms += [("db_kills", faults.db_kills), ("cuts", faults.cuts), ("api_faults", faults.api_faults)]
        terms += [("seed", faults.seed)]
        return "verdict " + " ".join(f"{name}={number}" for name, number in terms)

    def problems(self) -> list[str]:
        """A sentence a finding, each beginning with its term."""
        return [f"{finding.term}: {finding.sentence}" for finding in self.findings]


@dataclass(slots=True)
class _Case:
    """Everything about one payout_id. Most parts of most cases are empty or have one item, hence tuples."""

    payout_id: str
    records: tuple[Accepted, ...] = ()
    row: LedgerRow | None = None
    results: tuple[ResultEvent, ...] = ()
    told_before: tuple[ResultEvent, ...] = ()
    """What a cluster told that was lost since."""
    demands: tuple[CompensationDemand, ...] = ()
    ends: tuple[CompensationEnd, ...] = ()
    ends_before: tuple[CompensationEnd, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    approved: tuple[StandInEntry, ...] = ()
    came_back: tuple[StandInEntry, ...] = ()
    """Payments of an account that did not stay there; each names its payment by Visa's own id."""
    hand_backs: tuple[StandInEntry, ...] = ()
    """Reversals and adjustments of the card pull that funded the payout."""
    recipient_fingerprint: str | None = None

    @property
    def owner(self) -> Accepted | None:
        """The record that owns the id (rule L1): the row's source; without a row, the first acknowledged one."""
        if self.row is None:
            return self.records[0] if self.records else None
        return next((record for record in self.records if record.position == self.row.position), None)

    @property
    def with_recipient(self) -> tuple[StandInEntry, ...]:
        """The approved payments whose money has stayed where it went."""
        gone = {_effect(entry) for entry in self.came_back}
        return tuple(entry for entry in self.approved if _effect(entry) not in gone)

    @property
    def paid(self) -> tuple[StandInEntry, ...]:
        """What counts as paid: PAID is the last word also when the money comes back later (rule S8)."""
        return self.approved if self.row is not None and self.row.state == "PAID" else self.with_recipient

    @property
    def undone(self) -> int:
        """What was told at an earlier row version than this may have been taken back by an operator (rule L12)."""
        return 0 if self.row is None else self.row.undone_version

    @property
    def standing_demands(self) -> tuple[CompensationDemand, ...]:
        return tuple(demand for demand in self.demands if demand.version >= self.undone)

    @property
    def standing(self) -> tuple[ResultEvent, ...]:
        """Results of an end, without those of a resolution that was taken back (rule L12)."""
        return tuple(result for result in self.results if result.status != RETURNED and result.version >= self.undone)

    @property
    def statuses(self) -> set[str]:
        """The ends that the topic tells of."""
        return {result.status for result in self.standing}

    @property
    def statuses_ever(self) -> set[str]:
        """The same, and those that were told before the topic was lost."""
        return self.statuses | {result.status for result in self.told_before if result.status != RETURNED}

    @property
    def originators_word(self) -> set[str]:
        """References of what the originator handed back, for something that he was asked for."""
        asked = {(demand.compensation_id, demand.originator_id) for demand in self.demands}
        said = (word for word in self.confirmations if (word.compensation_id, word.originator_id) in asked)
        return {word.reference for word in said}


def _effect(entry: StandInEntry) -> tuple[str, str, str, str]:
    """What a payment and its return have in common: the same money, of the same recipient."""
    return entry.transaction_identifier, entry.amount, entry.currency, entry.recipient_fingerprint


class _File:
    """The evidence, sorted by payout, and when and with how much patience it is judged."""

    def __init__(self, evidence: Evidence, now: datetime, patience: timedelta, stopped_at: datetime | None) -> None:
        self.evidence = evidence
        self.now, self.patience, self.stopped_at = now, patience, stopped_at
        before = [] if evidence.earlier is None else evidence.earlier.accepted
        self.records = [one for one in before if one.position in evidence.survived] + evidence.accepted
        self.gone = [one for one in before if one.position not in evidence.survived]
        self.accepted = {record.position: record for record in self.records}
        self.intake = {line.position: line for line in evidence.intake}
        self.owned_positions = {row.position for row in evidence.rows}
        self.cases: dict[str, _Case] = {}
        self.unknown_payments: list[StandInEntry] = []
        self.unknown_hand_backs: list[StandInEntry] = []
        self._sort_records()
        self._sort_entries()
        self._fingerprint()
        self.counts = _counts(self)
        self.money = _money(self)

    def case(self, payout_id: str) -> _Case:
        found = self.cases.get(payout_id)
        if found is None:
            found = self.cases[payout_id] = _Case(payout_id)
        return found

    def overdue(self, since: datetime) -> bool:
        """Whether what began then, or at the end of the last fault, has had its time."""
        return self.now - max(since, self.stopped_at or since) >= self.patience

    def _sort_records(self) -> None:
        evidence = self.evidence
        for record in self.records:
            if record.payout_id is not None:
                self.case(record.payout_id).records += (record,)
        for row in evidence.rows:
            self.case(row.payout_id).row = row
        for result in evidence.results:
            self.case(result.payout_id).results += (result,)
        for demand in evidence.demands:
            self.case(demand.payout_id).demands += (demand,)
        for end in evidence.compensation_ends:
            self.case(end.payout_id).ends += (end,)
        if evidence.earlier is not None:
            self._sort_earlier(evidence.earlier)
        for word in evidence.confirmations + (evidence.earlier.confirmations if evidence.earlier else []):
            # A stranger may confirm what he likes: that makes no payout.
            if word.payout_id in self.cases:
                self.cases[word.payout_id].confirmations += (word,)

    def _sort_earlier(self, earlier: Evidence) -> None:
        """What was told and asked for before the cluster was lost, whether or not the backup brought it back."""
        for result in earlier.results:
            self.case(result.payout_id).told_before += (result,)
        for demand in earlier.demands:
            self.case(demand.payout_id).demands += (demand,)
        for end in earlier.compensation_ends:
            self.case(end.payout_id).ends_before += (end,)

    def _sort_entries(self) -> None:
        """Join the stand-in's entries to payouts by the published reference, never by our own numbers."""
        by_reference = {sender_reference(payout_id): case for payout_id, case in self.cases.items()}
        by_pull = self._cases_by_pull()
        for entry in self.evidence.entries:
            if not entry.money_moved:
                continue
            case = by_reference.get(entry.sender_reference or "")
            if entry.operation in PAYMENTS:
                self._sort_push(case, entry)
            elif entry.operation == ACCOUNT_RETURN and case is not None:
                case.came_back += (entry,)
            elif entry.operation in HAND_BACKS:
                self._sort_hand_back(by_pull.get(entry.transaction_identifier) or ([case] if case else []), entry)

    def _sort_push(self, case: _Case | None, entry: StandInEntry) -> None:
        if case is None:
            self.unknown_payments.append(entry)
        else:
            case.approved += (entry,)

    def _sort_hand_back(self, cases: list[_Case], entry: StandInEntry) -> None:
        for case in cases:
            case.hand_backs += (entry,)
        if not cases:
            self.unknown_hand_backs.append(entry)

    def _cases_by_pull(self) -> dict[str, list[_Case]]:
        """The payouts that name a card pull as their funding or as what was handed back."""
        named: dict[str, dict[str, _Case]] = defaultdict(dict)
        earlier = self.evidence.earlier
        for pull in self.evidence.pulls + (earlier.pulls if earlier else []):
            named[pull.transaction_identifier][pull.payout_id] = self.case(pull.payout_id)
        for end in self.evidence.compensation_ends + (earlier.compensation_ends if earlier else []):
            if end.transaction_identifier is not None:
                named[end.transaction_identifier][end.payout_id] = self.case(end.payout_id)
        return {identifier: list(cases.values()) for identifier, cases in named.items()}

    def _fingerprint(self) -> None:
        fingerprint = lru_cache(maxsize=FINGERPRINTS_KEPT)(
            partial(recipient_fingerprint, self.evidence.fingerprint_key)
        )
        for case in self.cases.values():
            owner = case.owner if case.approved else None
            if owner is not None and owner.recipient is not None:
                case.recipient_fingerprint = fingerprint(owner.recipient)


def judge(evidence: Evidence, *, stuck_after_seconds: float, now: datetime, faults: FaultCounts) -> Verdict:
    """The verdict on a run that has settled.

    `now` is timezone-aware; a payout is stuck if it needs no person and has no end `stuck_after_seconds` after it was
    received or after the last fault ended, whichever came later.
    """
    file = _File(evidence, now, timedelta(seconds=stuck_after_seconds), faults.stopped_at)
    findings = [finding for check in CHECKS for finding in check(file)]
    order = {term: place for place, term in enumerate(ZERO_TERMS)}
    findings.sort(key=lambda finding: (order.get(finding.term, len(order)), finding.term, finding.subject))
    return Verdict(file.counts, tuple(findings), faults, file.money, _states(file))


# What the line counts.


def _term_of(row: LedgerRow) -> str:
    """The one count of the line that a row belongs to; `open` for what still moves, which the line has no name for."""
    if row.state in TERMINAL_STATES:
        return row.state.lower()
    if row.held:
        return "held"
    if row.state in ("IN_REVIEW", "UNKNOWN"):
        return row.state.lower()
    return "open"


def _waits_for_person(row: LedgerRow, now: datetime) -> bool:
    """Promise P1: in review, held, or unknown past its deadline."""
    if row.held or row.state == "IN_REVIEW":
        return True
    overdue = row.first_intent_at is not None and now - row.first_intent_at >= UNKNOWN_DEADLINE
    return row.state == "UNKNOWN" and overdue


def _counts(file: _File) -> dict[str, int]:
    states = Counter(_term_of(row) for row in file.evidence.rows)
    dispositions = Counter(line.disposition for line in file.intake.values())
    return {
        "accepted": len(file.accepted),
        "payouts": len(file.evidence.rows),
        **{term: states[term] for term in (*STATE_TERMS, "open")},
        "repeats": dispositions["REPEAT"],
        "refused": dispositions["REFUSED"],
        "dead_letters": dispositions["DEAD_LETTER"],
    }


def _states(file: _File) -> dict[str, int]:
    states = Counter(row.state for row in file.evidence.rows)
    states.update(f"compensation {row.compensation}" for row in file.evidence.rows if row.compensation != "NONE")
    return dict(sorted(states.items()))


def _money(file: _File) -> dict[str, dict[str, int]]:
    """MONEY_PARTS of each currency, in minor units."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for case in file.cases.values():
        asked = _amount(case)
        if asked is not None and _is_payout(file, case):
            totals[asked[1]]["accepted"] += asked[0]
        for entry in case.paid:
            minor, currency = _entry_amount(entry) or (0, entry.currency)
            totals[currency]["paid"] += minor
        row = case.row
        if row is not None and row.state in UNPAID_ENDS:
            totals[row.currency]["ended_unpaid"] += row.amount_minor
        elif row is not None and row.state != "PAID" and not case.paid:
            totals[row.currency]["held"] += row.amount_minor
    return {currency: {part: total[part] for part in MONEY_PARTS} for currency, total in sorted(totals.items())}


def _is_payout(file: _File, case: _Case) -> bool:
    """Whether some record of the id owns a row, or should: a refusal or dead letter alone asks for no money."""
    if case.row is not None:
        return True
    lines = (file.intake.get(record.position) for record in case.records)
    return any(line is None or line.disposition == "REPEAT" for line in lines)


def _sums(file: _File) -> Iterator[Finding]:
    """The counts add up. Each comes from a source of its own, so that a sum that fits says something."""
    counts = file.counts
    records = sum(counts[name] for name in ("payouts", "repeats", "refused", "dead_letters"))
    if counts["accepted"] != records:
        yield Finding(
            "counts",
            "records",
            f"{counts['accepted']} records were accepted, but payouts + repeats + refused + dead_letters = {records}",
        )
    if counts["payouts"] != sum(counts[name] for name in STATE_TERMS):
        still_open = [f"{row.payout_id} ({row.state})" for row in file.evidence.rows if _term_of(row) == "open"]
        yield Finding(
            "counts", "states", f"the states do not sum up to the payouts: still open are {_some(still_open)}"
        )


# The seven zeros.


def _lost(file: _File) -> Iterator[Finding]:
    """Accepted, and no terminal result; or accepted, and nothing at all came of the record."""
    unaccounted = [
        record
        for position, record in file.accepted.items()
        if position not in file.owned_positions and position not in file.intake
    ]
    lost = {record.payout_id for record in unaccounted} | set(_payouts_of_records(file))
    without_result = set()
    for payout_id in lost - {None}:
        case = file.cases[str(payout_id)]
        waits = case.row is not None and _waits_for_person(case.row, file.now)
        if not waits and not case.statuses & TERMINAL_STATES:
            without_result.add(payout_id)
            state = "has no row" if case.row is None else f"is {case.row.state} in the ledger"
            yield Finding("lost", case.payout_id, f"payout {case.payout_id} has no result; it {state}")
    for record in unaccounted:
        if record.payout_id is None or record.payout_id not in without_result:
            name = record.payout_id or "no request"
            sentence = f"record {record.position} ({name}) became no row, repeat, refusal or dead letter"
            yield Finding("lost", str(record.position), sentence)


def _never_sent_again(file: _File) -> Iterator[Finding]:
    """Acknowledged by a cluster that is lost, in no backup that was put back, and not sent again as it was."""
    again = Counter((record.payout_id, record.value_sha256) for record in file.evidence.accepted)
    for record in file.gone:
        key = (record.payout_id, record.value_sha256)
        if again[key]:
            again[key] -= 1
            continue
        name = record.payout_id or "no request"
        sentence = f"record {record.position} ({name}) went with its cluster and was never sent again as it was"
        yield Finding("lost", record.payout_id or f"{record.position} before", sentence)


def _payouts_of_records(file: _File) -> Iterator[str]:
    """Ids of accepted records that are to get a result: the owner's and every repeat's."""
    for position, record in file.accepted.items():
        line = file.intake.get(position)
        if record.payout_id is not None and (line is None or line.disposition == "REPEAT"):
            yield record.payout_id


def _double(file: _File) -> Iterator[Finding]:
    """More than one approved push of funds for a payout, or one with another amount or recipient."""
    for case in file.cases.values():
        what = [f"{len(case.approved)} approved pushes of funds"] if len(case.approved) > 1 else []
        what += [
            f"entry {entry.entry_id} with another {difference}"
            for entry in case.approved
            for difference in _differences(case, entry)
        ]
        if what:
            yield Finding("double", case.payout_id, f"payout {case.payout_id} has {' and '.join(what)}")


def _differences(case: _Case, entry: StandInEntry) -> Iterator[str]:
    amount = _amount(case)
    if amount is not None and _entry_amount(entry) != amount:
        yield f"amount ({entry.amount} {entry.currency})"
    if case.recipient_fingerprint not in (None, entry.recipient_fingerprint):
        yield "recipient"


def _stuck(file: _File) -> Iterator[Finding]:
    for row in file.evidence.rows:
        if row.state in TERMINAL_STATES or _waits_for_person(row, file.now):
            continue
        if file.overdue(row.received_at):
            seconds = int((file.now - row.received_at).total_seconds())
            sentence = f"payout {row.payout_id} is {row.state}, needs no person, and came {seconds} s ago"
            yield Finding("stuck", row.payout_id, sentence)


def _compensation_stuck(file: _File) -> Iterator[Finding]:
    """Captured money that the processor itself is to hand back, and does not; no term of the line."""
    for row in file.evidence.rows:
        by_us = row.compensation in COMPENSATION_UNDER_WAY and row.compensation_executor == "PROCESSOR"
        if by_us and not row.held and row.compensation_at is not None and file.overdue(row.compensation_at):
            sentence = f"the compensation of payout {row.payout_id} is {row.compensation} and does not end"
            yield Finding("compensation", row.payout_id, sentence)


def _phantom(file: _File) -> Iterator[Finding]:
    """PAID, in the ledger or in a result, and the stand-in paid nothing."""
    for case in file.cases.values():
        said = [] if case.row is None or case.row.state != "PAID" else ["the ledger"]
        said += ["a result"] if "PAID" in case.statuses_ever else []
        if said and not case.approved:
            sentence = f"payout {case.payout_id} is PAID by {' and '.join(said)}, but the stand-in holds no payment"
            yield Finding("phantom", case.payout_id, sentence)


def _orphan(file: _File) -> Iterator[Finding]:
    """A payment whose payout ended unpaid or is compensated, or that belongs to no payout.

    Not one that came back from its account before anybody called the payout PAID: nobody has that money twice.
    """
    for entry in file.unknown_payments:
        sentence = f"entry {entry.entry_id} ({entry.sender_reference}) was paid for no payout that we know"
        yield Finding("orphan", f"entry {entry.entry_id}", sentence)
    for case in file.cases.values():
        why = [] if case.records else ["was accepted by nobody's account"]
        why += _unpaid_reasons(case) + _compensation_reasons(case)
        for entry in case.paid if why else ():
            sentence = f"entry {entry.entry_id} was paid for payout {case.payout_id}, which {' and '.join(why)}"
            yield Finding("orphan", f"entry {entry.entry_id}", sentence)


def _unpaid_reasons(case: _Case) -> list[str]:
    ends = {case.row.state} if case.row is not None else set()
    return [f"is {end}" for end in sorted((ends | case.statuses_ever) & set(UNPAID_ENDS))]


def _compensation_reasons(case: _Case) -> list[str]:
    reasons = []
    if case.row is not None and case.row.compensation in COMPENSATION_UNDER_WAY | {COMPENSATED}:
        reasons.append(f"has a compensation ({case.row.compensation})")
    if case.standing_demands:
        reasons.append("has an event that asks for compensation")
    if any(end.status == COMPENSATED for end in case.ends + case.ends_before):
        reasons.append("has an event that reports a compensation")
    if case.originators_word:
        reasons.append("was handed back by its originator")
    if case.hand_backs:
        reasons.append("had its card pull handed back")
    return reasons


def _compensated_twice(file: _File) -> Iterator[Finding]:
    """More than one compensation effect for a payout, or both parties told to compensate (rules C1, C2)."""
    for case in file.cases.values():
        if why := _second_compensation(case):
            yield Finding("comp_double", case.payout_id, f"payout {case.payout_id} has {why}")
    by_pull = Counter(entry.transaction_identifier for entry in file.unknown_hand_backs)
    for identifier, number in by_pull.items():
        if number > 1:
            sentence = f"card pull {identifier}, which no payout names, was handed back {number} times"
            yield Finding("comp_double", f"pull {identifier}", sentence)


def _second_compensation(case: _Case) -> str | None:
    before, now = _lives(
        {(end.executor, end.event_id) for end in case.ends_before if _is_done(end)},
        {(end.executor, end.event_id) for end in case.ends if _is_done(end)},
    )
    # What was done in the first life may be told again in the second, which does not know of it; the effects do not
    # come from there.
    told = Counter(executor for executor, _ in before) | Counter(executor for executor, _ in now)
    # An effect and our own event about it are one: a reversal or adjustment at Visa, an originator's confirmation.
    by_us = max(len(case.hand_backs), told.pop("PROCESSOR", 0))
    by_originator = max(len(case.originators_word), told.pop("ORIGINATOR", 0))
    effects = by_us + by_originator + told.total()
    executors = {demand.executor for demand in case.standing_demands} | ({"PROCESSOR"} if case.hand_backs else set())
    if effects > 1:
        at_visa = ", ".join(sorted(entry.operation for entry in case.hand_backs)) or "none"
        return f"{effects} compensation effects (by us {by_us}, by the originator {by_originator}; at Visa: {at_visa})"
    if len(executors) > 1:
        return f"compensations by {' and '.join(sorted(executors))}"
    if len({demand.compensation_id for demand in case.standing_demands}) > 1:
        return "more than one compensation asked for"
    return None


def _lives(before: set[Told], now: set[Told]) -> tuple[set[Told], set[Told]]:
    """What each life told by itself: a backup brings some of the first life's events back."""
    return before, now - before


def _is_done(end: CompensationEnd) -> bool:
    return end.status == COMPENSATED


def _leaks(file: _File) -> Iterator[Finding]:
    earlier = file.evidence.earlier
    for leak in file.evidence.leaks + (earlier.leaks if earlier else []):
        what = "a number that looks like a card's" if leak.ending is None else f"the card number ending {leak.ending}"
        yield Finding("leak", leak.artefact, f"{leak.artefact} holds {what} ({leak.encoding}) at {leak.where}")


# What the line has no term for, and what is no less wrong.


def _conflicting_results(file: _File) -> Iterator[Finding]:
    """One payout, one end: told once, however often it is repeated, and the same in the ledger."""
    for case in file.cases.values():
        name = case.payout_id
        before, now = _lives(
            {(result.status, result.event_id) for result in case.told_before if result.status != RETURNED},
            {(result.status, result.event_id) for result in case.standing},
        )
        ends = max(before, now, key=len)
        if len(ends) > 1:
            told = ", ".join(sorted({status for status, _ in ends}))
            sentence = f"payout {name} has {len(ends)} different results ({told})"
            yield Finding("conflicting_results", name, sentence)
        elif "PAID" in case.statuses_ever and len(case.statuses_ever) > 1:
            sentence = f"payout {name} was told as {', '.join(sorted(case.statuses_ever))}, in two lives"
            yield Finding("conflicting_results", name, sentence)
        elif case.row is not None and (wrong := _not_of_the_row(case.row, before, now)):
            sentence = f"payout {name} is {case.row.state} in the ledger, but its result says {', '.join(wrong)}"
            yield Finding("conflicting_results", name, sentence)


def _not_of_the_row(row: LedgerRow, before: set[tuple[str, str]], now: set[tuple[str, str]]) -> list[str]:
    """Ends that were told and are not the ledger's. Of one that a lost life told it knows only what people found out:

    paid or not, and under which name it ended unpaid does not matter; until then it waits for them, held.
    """
    wrong = {status for status, _ in now} - {row.state}
    for status, _ in before:
        same = row.state in TERMINAL_STATES and (status == "PAID") == (row.state == "PAID")
        if not (same or row.held):
            wrong.add(status)
    return sorted(wrong)


def _conservation(file: _File) -> Iterator[Finding]:
    """Money accepted = money paid (by the stand-in) + ended unpaid + held, exactly, a currency at a time."""
    for currency, total in file.money.items():
        rest = total["accepted"] - total["paid"] - total["ended_unpaid"] - total["held"]
        if rest:
            parts = " - ".join(f"{name} {total[name]}" for name in MONEY_PARTS)
            yield Finding("conservation", currency, f"{parts} = {rest} minor units of {currency}, which should be 0")


def _returns_fit(file: _File) -> Iterator[Finding]:
    """Money that comes back after PAID is a second fact with one event of its own, and nothing else has one (S8)."""
    for case in file.cases.values():
        yield from _returns_of_payments(case)
        before, now = _lives(
            {result.event_id for result in case.told_before if result.status == RETURNED},
            {result.event_id for result in case.results if result.status == RETURNED},
        )
        told = before | now
        name, is_paid = case.payout_id, case.row is not None and case.row.state == "PAID"
        if told and not case.came_back:
            yield Finding("returned", name, f"payout {name} is told as returned, but the stand-in took nothing back")
        elif told and "PAID" not in case.statuses_ever:
            yield Finding("returned", name, f"payout {name} is told as returned, but never as PAID")
        if len(max(before, now, key=len)) > 1:
            yield Finding("returned", name, f"payout {name} has {len(told)} different events of its return")
        if case.came_back and is_paid and not told and not _is_held(case.row):
            yield Finding("returned", name, f"payout {name} is PAID and came back, and nobody was told")


def _returns_of_payments(case: _Case) -> Iterator[Finding]:
    """What comes back is one payment of this payout, once: all of its money, from its recipient, never a part."""
    paid = Counter(map(_effect, case.approved))
    for entry in case.came_back:
        if paid[_effect(entry)]:
            paid[_effect(entry)] -= 1
            continue
        sentence = (
            f"entry {entry.entry_id} gives back {entry.amount} {entry.currency} for payout {case.payout_id}, "
            "which is no payment of it, or has come back already"
        )
        yield Finding("returned", f"entry {entry.entry_id}", sentence)


def _is_held(row: LedgerRow | None) -> bool:
    return row is not None and row.held


def _amounts(file: _File) -> Iterator[Finding]:
    """Ledger and results speak of the amount that the originator asked for."""
    for case in file.cases.values():
        amount = _amount(case)
        if amount is None:
            continue
        told = {(result.amount_minor, result.currency) for result in case.results + case.told_before}
        told |= {(case.row.amount_minor, case.row.currency)} if case.row is not None else set()
        for other_minor, other_currency in sorted(told - {amount}):
            asked, said = f"{amount[0]} {amount[1]}", f"{other_minor} {other_currency}"
            sentence = f"payout {case.payout_id} asks for {asked}, but its row or result says {said} (minor units)"
            yield Finding("amount", case.payout_id, sentence)


def _intake_is_published(file: _File) -> Iterator[Finding]:
    """A refusal or dead letter that the ledger remembers must also have reached whoever waits for it."""
    published = {"REFUSED": file.evidence.refusals, "DEAD_LETTER": file.evidence.dead_letters}
    for position, line in file.intake.items():
        if position in file.owned_positions:
            yield Finding("intake", str(position), f"record {position} owns a row and is a {line.disposition} too")
        if line.disposition in published and position not in published[line.disposition]:
            sentence = f"record {position} is a {line.disposition} in the ledger, but no event says so"
            yield Finding("intake", str(position), sentence)
    for disposition, positions in published.items():
        yield from _unrecorded(disposition, positions, file.intake)


def _unrecorded(
    disposition: str, positions: Iterable[Position], intake: Mapping[Position, Intake]
) -> Iterator[Finding]:
    for position in positions:
        line = intake.get(position)
        if line is None or line.disposition != disposition:
            sentence = f"an event says that record {position} is a {disposition}, but the ledger does not"
            yield Finding("intake", str(position), sentence)


def _nobody_asked(file: _File) -> Iterator[Finding]:
    """Payouts, results and dispositions that no acknowledged record explains."""
    for case in file.cases.values():
        if not case.records:
            yield Finding("unexplained", case.payout_id, f"payout {case.payout_id} comes from no acknowledged record")
        elif case.row is not None and case.row.position not in file.accepted:
            sentence = f"the row of payout {case.payout_id} names record {case.row.position}, which nobody acknowledged"
            yield Finding("unexplained", case.payout_id, sentence)
    for position, line in file.intake.items():
        if position not in file.accepted:
            sentence = f"record {position} is a {line.disposition}, but nobody acknowledged it"
            yield Finding("unexplained", str(position), sentence)


def _hand_backs_fit(file: _File) -> Iterator[Finding]:
    """What the processor reports as handed back is, at the stand-in, and the other way round."""
    # A receipt that two payouts name belongs to one of them (rule L7); the other one has nothing to explain.
    explained = {
        entry.entry_id
        for case in file.cases.values()
        if case.row is not None and case.row.compensation != "NONE"
        for entry in case.hand_backs
    }
    for case in file.cases.values():
        ends = case.ends + case.ends_before
        if any(_is_done(end) and end.executor == "PROCESSOR" for end in ends) and not case.hand_backs:
            sentence = f"payout {case.payout_id} is reported as handed back, but the stand-in holds no such entry"
            yield Finding("compensation", case.payout_id, sentence)
        if any(entry.entry_id not in explained for entry in case.hand_backs):
            sentence = f"the stand-in gave back the card pull of payout {case.payout_id}, which has no compensation"
            yield Finding("compensation", case.payout_id, sentence)
    for entry in file.unknown_hand_backs:
        sentence = f"entry {entry.entry_id} ({entry.operation}) gives back a card pull that no payout names"
        yield Finding("compensation", f"entry {entry.entry_id}", sentence)


def _originator_has_said_so(file: _File) -> Iterator[Finding]:
    """Money that an originator hands back is COMPENSATED by his word, and by nothing else (rule C2)."""
    for case in file.cases.values():
        ends = case.ends + case.ends_before
        if any(_is_done(end) and end.executor == "ORIGINATOR" for end in ends) and not case.originators_word:
            sentence = f"payout {case.payout_id} is reported as handed back by its originator, who did not say so"
            yield Finding("compensation", case.payout_id, sentence)


def _compensation_is_published(file: _File) -> Iterator[Finding]:
    """Whoever is to hand captured money back was told so, and how it ended (rules C1, C2, K2)."""
    for case in file.cases.values():
        if case.row is None:
            continue
        name, state = case.payout_id, case.row.compensation
        if (state != "NONE") != bool(case.standing_demands):
            asked = "an event asks for one" if case.standing_demands else "no event asks for it"
            yield Finding("compensation", name, f"payout {name} has compensation {state} in the ledger, but {asked}")
        told = {end.status for end in case.ends}
        missing = {state} - told if state in COMPENSATION_ENDS else set()
        # What a lost life has handed back a held row is not to hand back again: it waits for people, as it stands.
        before = {(end.status, end.event_id) for end in case.ends_before}
        if case.row.held:
            told = {end.status for end in case.ends if (end.status, end.event_id) not in before}
        else:
            told |= {status for status, _ in before}
        # What a person was to do may be done by a late proof: MANUAL is then told first, and stays told.
        if missing or told - {state, "MANUAL"} or (told and state not in COMPENSATION_ENDS):
            said = ", ".join(sorted(told)) or "nothing"
            sentence = f"payout {name} has compensation {state} in the ledger, but its events report {said}"
            yield Finding("compensation", name, sentence)


def _broken(file: _File) -> Iterator[Finding]:
    earlier = file.evidence.earlier
    for number, sentence in enumerate(file.evidence.broken + (earlier.broken if earlier else [])):
        yield Finding("evidence", str(number), sentence)


def _known_operations(file: _File) -> Iterator[Finding]:
    """Money that the stand-in moved in a way that this judge knows nothing of must not pass unseen."""
    for entry in file.evidence.entries:
        if entry.money_moved and entry.operation not in OPERATIONS:
            sentence = f"entry {entry.entry_id} moved money by {entry.operation}, which the auditor does not know"
            yield Finding("evidence", f"entry {entry.entry_id}", sentence)


CHECKS: Final[tuple[Callable[[_File], Iterator[Finding]], ...]] = (
    _lost,
    _never_sent_again,
    _double,
    _stuck,
    _phantom,
    _orphan,
    _compensated_twice,
    _leaks,
    _sums,
    _conservation,
    _conflicting_results,
    _returns_fit,
    _amounts,
    _intake_is_published,
    _nobody_asked,
    _compensation_stuck,
    _hand_backs_fit,
    _originator_has_said_so,
    _compensation_is_published,
    _broken,
    _known_operations,
)
"""Every judge; a test shows that none of them can be left out unseen."""


def _amount(case: _Case) -> tuple[int, str] | None:
    """What the originator asked for, in minor units; by the row alone if the journal does not say."""
    owner = case.owner
    if owner is not None and owner.amount_minor is not None and owner.currency is not None:
        return owner.amount_minor, owner.currency
    return None if case.row is None else (case.row.amount_minor, case.row.currency)


def _entry_amount(entry: StandInEntry) -> tuple[int, str] | None:
    """The decimal amount of an entry in minor units; None if its currency has no such amount."""
    try:
        exponent = Currency(entry.currency).exponent
        minor = Decimal(entry.amount).scaleb(exponent or 0)
    except (ValueError, InvalidOperation):
        return None
    if not minor.is_finite() or minor != minor.to_integral_value():
        return None
    return int(minor), entry.currency


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return shown if len(names) <= NAMES_SHOWN_MAX else f"{shown} and {len(names) - NAMES_SHOWN_MAX} more"
