"""What must hold while a world runs, and what must hold when it has come to rest. Reads; decides nothing.

Its own words, and none of the product's decisions: what was accepted, what left for Visa, what took effect there, what
the topics say, and how the rows stand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

from ledger.interface import InboundPosition, NotBegun
from processors.money import Money
from processors.visa.identity import Operation
from sandbox.simulation.contents import ACCOUNT_NUMBER, RECIPIENT_CARD, SENDER_CARD

if TYPE_CHECKING:
    from processors.payout.row import PayoutRow
    from sandbox.simulation.broker import Slot, Stored
    from sandbox.simulation.contents import Encoded
    from sandbox.simulation.visa import Effect, Sent
    from sandbox.simulation.worker import SimulatedWorker
    from sandbox.simulation.world import World

HORIZON_SECONDS: Final = 8.0
"""Test profile: nothing of a call takes effect later than this."""
QUESTIONS: Final = frozenset({Operation.TRANSACTION_QUERY, Operation.PUSH_FUNDS_STATUS})
RESEND_LIMIT_SECONDS: Final = 23 * 3600.0
CLOCK_SLACK_SECONDS: Final = 2.0
"""Workers' clocks may be a second off, each way."""
UNPAID_ENDS: Final = frozenset({"REJECTED", "DENIED", "DECLINED", "EXPIRED", "FAILED", "CANCELLED"})
PRIVATE_NUMBERS: Final = (RECIPIENT_CARD, SENDER_CARD, ACCOUNT_NUMBER)
STATES: Final = ("PAID", *sorted(UNPAID_ENDS))
PAYMENTS: Final = frozenset({Operation.PUSH_FUNDS, Operation.SEND_PAYOUT})
HAND_BACKS: Final = frozenset({Operation.REVERSE_FUNDS, Operation.ADJUSTMENT})
SILENT: Final = frozenset({"isolation", "halted"})
"""Modes in which nothing leaves, for Visa or for our topics (E5)."""
FORBIDDEN: Final = {"read_only": PAYMENTS | HAND_BACKS, "emergency": PAYMENTS}
REVIEW_FROM: Final = 7_000
"""The score from which `manual_review` wants a reviewer."""
TERMS: Final = ("lost", "double", "stuck", "phantom", "orphan", "comp_double", "leak", "rule")


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken, for one payout if it concerns one."""

    term: str
    payout_id: str | None
    what: str


@dataclass
class Watch:
    """Keeps account while the world runs; `judge` says what is wrong with it."""

    world: World
    violations: list[Violation] = field(default_factory=list)
    requests: list[tuple[str | None, bytes, tuple[str, int, int]]] = field(default_factory=list)
    sent_as: dict[tuple[str, int, int], str | None] = field(default_factory=dict)
    """Whose each record of the request topic says it is."""
    mode_in_force: str | None = None
    """Since `modes set` has returned; None while it waits for calls under way, and before the first."""
    callers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    originator_handed_back: set[str] = field(default_factory=set)
    asked: dict[tuple[str, int, int], Money] = field(default_factory=dict)
    """What each record of the request topic asks for: the first that was taken owns the payout (L1)."""

    # While it runs.

    def accepted(self, stored: Stored, payout_id: str | None, content: bytes, amount: Money | None = None) -> None:
        """The broker has a record of the request topic."""
        place = (stored.topic, stored.partition, stored.offset)
        self.requests.append((payout_id, content, place))
        self.sent_as[place] = payout_id
        if amount is not None:
            self.asked[place] = amount

    def handed_back(self, payout_id: str) -> None:
        """The originator gave the funding back."""
        self.originator_handed_back.add(payout_id)

    def mode(self, in_force: str | None) -> None:
        """`modes set` has returned, or has been begun (None)."""
        self.mode_in_force = in_force

    def published(self, worker: SimulatedWorker, topic: str, obeyed: str | None) -> None:
        """An event leaves a worker, which obeys this mode (E5)."""
        if obeyed in SILENT:
            self._broken("rule", None, f"E5: {worker.name} published to {topic} in {obeyed}")

    def bug(self, what: str) -> None:
        """A handler failed in a way that nobody foresaw (P8)."""
        self._broken("rule", None, f"P8: an unforeseen failure: {what}")

    def begun(self, answer: PayoutRow | NotBegun, owner: str) -> None:
        """Who was given a lease by `begin` (K4: nobody else ever has one)."""
        if not isinstance(answer, NotBegun):
            self.callers[answer.payout_id].add(owner)

    def committed(self, slot: Slot, before: int, offset: int) -> None:
        """Offsets of one generation never go back, and never past what is there, or is not in the ledger yet (K1)."""
        if offset < before or offset > len(self.world.broker.topics[slot]):
            self._broken("rule", None, f"K1: {slot} committed from {before} to {offset}")
        topic, partition = slot
        for passed in range(before, offset) if topic == "payout_requests" else ():
            payout_id = self.sent_as.get((topic, partition, passed))
            if not self.world.ledger._is_accounted(InboundPosition(topic, partition, passed, payout_id)):
                self._broken("rule", payout_id, f"K1: committed past {slot}-{passed}, of which the ledger has nothing")

    def reference(self, payout_id: str, reference: str) -> None:
        """An OCT carries the reference of the payout that it is for."""
        if self.world.reference_of(payout_id) != reference:
            self._broken("phantom", payout_id, "the OCT carries another payout's reference")

    def bytes_left(self, worker: SimulatedWorker, operation: Operation, payout_id: str) -> None:
        """A request is on the wire: the row must be leased, by a call of this worker (L3), and calls allowed (L9)."""
        row = self.world.row(payout_id)
        if row is None or row.lease_until is None or row.lease_owner is None or row.lease_until <= self.world.now():
            self._broken("rule", payout_id, f"L3: {worker.name} sent {operation} without a live lease")
        elif not row.lease_owner.startswith(f"{worker.name}/"):
            self._broken("rule", payout_id, f"L3: {worker.name} sent {operation} under {row.lease_owner}'s lease")
        mode = self.mode_in_force
        unreviewed = row is not None and row.reviewer is None and (row.score_basis_points or 0) >= REVIEW_FROM
        if operation in FORBIDDEN.get(mode or "", ()) or mode in SILENT:
            self._broken("rule", payout_id, f"L9: {worker.name} sent {operation} after {mode} had returned")
        if mode == "manual_review" and operation in PAYMENTS and unreviewed:
            self._broken("rule", payout_id, f"E5: {worker.name} sent {operation} that no reviewer had approved")
        if operation in PAYMENTS and row is not None and row.state in STATES:
            self._broken("rule", payout_id, f"a push left for a row that is {row.state}")

    def effect(self, effect: Effect) -> None:
        """Money moved, or an OCT was declined: what may never happen is seen at once."""
        if not effect.approved:
            return
        visa = self.world.visa
        if effect.operation in PAYMENTS:
            pushes = [other for other in visa.pushes_of(effect.payout_id) if other.approved]
            if len(pushes) > 1:
                self._broken("double", effect.payout_id, f"{len(pushes)} approved payments")
            row = self.world.row(effect.payout_id)
            place = (row.source_topic, row.source_partition, row.source_offset) if row is not None else ("", 0, 0)
            if self.asked.get(place) != Money(effect.amount_minor, effect.currency):
                self._broken("double", effect.payout_id, "an OCT of another amount")
        else:
            pulls = [other for other in visa.by_pull[effect.pull] if other.approved] if effect.pull is not None else []
            if len(pulls) > 1:
                self._broken("comp_double", effect.payout_id, f"a pull was given back {len(pulls)} times")

    # When it is over.

    def judge(self) -> list[Violation]:
        """Everything that is wrong with a world that has come to rest."""
        world = self.world
        rows = {row.payout_id: row for row in world.rows()}
        results, compensations = self._results(), self._announced("payout_compensation_results")
        self._requests(rows)
        for payout_id, plan in world.plans.items():
            row = rows.get(payout_id)
            if row is None:
                if plan.at_seconds <= world.now_seconds:
                    self._broken("lost", payout_id, "accepted, and no row")
                continue
            self._ended(row, results)
            self._money(row)
            self._compensation(row, compensations)
            self._sends(payout_id, world.visa.sent.get(payout_id, []))
            self._leases(row)
            self._texts(row)
        return self.violations

    def counts(self) -> Counter[str]:
        """Payouts by state, and the other counts of the verdict line."""
        counts: Counter[str] = Counter()
        for row in self.world.rows():
            counts["payouts"] += 1
            if row.held and row.state not in STATES:
                counts["held"] += 1
            else:
                counts[row.state.value.lower()] += 1
        counts["accepted"] = len(self.requests)
        intake = Counter(
            record.disposition.value for record in self.world.ledger.intake() if record.topic == "payout_requests"
        )
        counts["refused"], counts["repeats"] = intake["REFUSED"], intake["REPEAT"]
        counts["dead_letters"] = intake["DEAD_LETTER"]
        return counts

    def _broken(self, term: str, payout_id: str | None, what: str) -> None:
        self.violations.append(Violation(term, payout_id, what))

    def _requests(self, rows: dict[str, PayoutRow]) -> None:
        """P1, P5, K6, K7: every record is a payout, a repeat, a refusal or a dead letter, and the right one."""
        fate = {
            (record.topic, record.partition, record.offset): record.disposition.value
            for record in self.world.ledger.intake()
        }
        owner = {(row.source_topic, row.source_partition, row.source_offset): row.payout_id for row in rows.values()}
        content_of_owner = {
            payout_id: content for payout_id, content, place in self.requests if owner.get(place) == payout_id
        }
        for payout_id, content, place in self.requests:
            wanted = "DEAD_LETTER"
            if payout_id is not None:
                wanted = "REPEAT" if content == content_of_owner.get(payout_id) else "REFUSED"
            found = "PAYOUT" if place in owner else fate.get(place)
            if found != "PAYOUT" and found != wanted:
                self._broken("lost", payout_id, f"the record {place} is {found}, and should be {wanted}")
        refused = {cast("Encoded", stored.value).record["source_offset"] for stored in self._all("payout_refusals")}
        counted = sum(disposition == "REFUSED" for disposition in fate.values())
        if len({(stored.key, cast("Encoded", stored.value).record["refused_event_id"])
                for stored in self._all("payout_refusals")}) != counted:  # fmt: skip
            self._broken("lost", None, f"{counted} requests refused, {len(refused)} told")

    def _ended(self, row: PayoutRow, results: dict[str, dict[int, Any]]) -> None:
        """P1: one end, told once; or it waits for a person."""
        told = results.get(row.payout_id, {})
        if row.state not in STATES:
            if not row.held and row.state != "IN_REVIEW":
                self._broken("stuck", row.payout_id, f"{row.state} since {row.state_at:%H:%M:%S}, due {row.due_at}")
            if told and not row.held:
                self._broken("rule", row.payout_id, f"a result was told of a payout that is {row.state}")
            return
        if row.state_version not in told:
            self._broken("lost", row.payout_id, f"{row.state}, and no result of it was told")
        elif told[row.state_version]["status"] != row.state:
            self._broken("rule", row.payout_id, "the result says something else than the row")
        ends = [version for version, result in told.items() if result["status"] != "RETURNED"]
        if len(ends) > 1:
            self._broken("rule", row.payout_id, f"P1: {len(ends)} different results were told")
        returns = [version for version in told if version not in ends]
        if returns != ([row.returned_version] if row.returned_at is not None else []):
            self._broken("rule", row.payout_id, f"S8: returns told under {returns}, recorded {row.returned_version}")

    def _money(self, row: PayoutRow) -> None:
        """P2, P3: paid is what Visa's account says."""
        approved = [effect for effect in self.world.visa.pushes_of(row.payout_id) if effect.approved]
        if row.state == "PAID" and not approved:
            self._broken("phantom", row.payout_id, "PAID, and Visa knows of no approval")
        if row.state in UNPAID_ENDS and not all(effect.returned for effect in approved):
            self._broken("orphan", row.payout_id, f"{row.state}, and Visa has approved it")
        returned = any(effect.returned for effect in approved)
        if row.returned_at is not None and not returned:
            self._broken("phantom", row.payout_id, "recorded as returned, and it was not")
        if row.state == "PAID" and returned and row.returned_at is None and row.reason_code != "RESOLVED_PAID":
            self._broken("lost", row.payout_id, "S8: it came back, and nobody knows")

    def _compensation(self, row: PayoutRow, told: dict[str, dict[int, Any]]) -> None:
        """P4, C1, C2: handed back once, by one, only what was captured and not paid."""
        visa = self.world.visa
        given = [e for e in visa.by_payout[row.payout_id] if e.operation in HAND_BACKS and e.approved]
        both = bool(given) + (row.payout_id in self.originator_handed_back)
        paid = any(effect.approved and not effect.returned for effect in visa.pushes_of(row.payout_id))
        if both > 1 or len(given) > 1:
            self._broken("comp_double", row.payout_id, "handed back more than once")
        if both and paid:
            self._broken("orphan", row.payout_id, "handed back, and paid")
        if both and not self.world.plans[row.payout_id].captured:
            self._broken("orphan", row.payout_id, "handed back what was not captured")
        waits = row.compensation_executor == "ORIGINATOR" and row.payout_id not in self.originator_handed_back
        if row.compensation in ("REQUIRED", "RUNNING", "UNKNOWN") and not row.held and not waits:
            self._broken("stuck", row.payout_id, f"compensation {row.compensation}")
        if row.compensation == "COMPENSATED" and not both:
            self._broken("phantom", row.payout_id, "COMPENSATED, and nobody has handed anything back")
        if row.compensation in ("COMPENSATED", "MANUAL") and row.compensation_version not in told.get(
            row.payout_id, {}
        ):
            self._broken("lost", row.payout_id, f"compensation {row.compensation} was not told")
        unpaid = row.state in UNPAID_ENDS
        if unpaid and row.funding_captured and row.receipt_owned and row.compensation == "NONE":
            self._broken("lost", row.payout_id, "captured, ended unpaid, and nothing is handed back")
        if row.compensation != "NONE" and not (unpaid and row.funding_captured and row.receipt_owned):
            self._broken("orphan", row.payout_id, "a compensation that nothing asks for")

    def _sends(self, payout_id: str, sent: list[Sent]) -> None:
        """S1, S3: one identity and one plaintext, asked before it is sent again, and never after 23 hours."""
        for operation in (*sorted(PAYMENTS), Operation.ADJUSTMENT, Operation.REVERSE_FUNDS):
            mine = [request for request in sent if request.operation is operation]
            if len({(request.numbers, request.body) for request in mine}) > 1:
                self._broken("rule", payout_id, f"S1, S3: {operation} left with different numbers or plaintexts")
        sends = [request for request in sent if request.operation is Operation.SEND_PAYOUT]
        if not all(earlier.definite for earlier in sends[:-1]):
            self._broken("rule", payout_id, "S3: an account payout that may have arrived was sent again")
        pushes = [request for request in sent if request.operation is Operation.PUSH_FUNDS]
        if pushes and pushes[-1].at_seconds - pushes[0].at_seconds > RESEND_LIMIT_SECONDS + CLOCK_SLACK_SECONDS:
            self._broken("rule", payout_id, "P3, S3: sent again after 23 hours")
        for earlier, later in pairwise(pushes):
            asked = [
                r for r in sent if r.operation in QUESTIONS and earlier.at_seconds < r.at_seconds < later.at_seconds
            ]
            if not earlier.definite and not asked:
                self._broken("rule", payout_id, "S3: sent again, and nobody had asked what became of it")
            if not earlier.definite and later.at_seconds - earlier.at_seconds < HORIZON_SECONDS:
                self._broken("rule", payout_id, "S3: sent again while the attempt before might still take effect")

    def _leases(self, row: PayoutRow) -> None:
        if row.lease_owner is not None and row.lease_owner not in self.callers[row.payout_id]:
            self._broken("rule", row.payout_id, f"K4: {row.lease_owner} has a lease that no call was begun with")

    def _texts(self, row: PayoutRow) -> None:
        """P6: no text that is kept or told says the number of a card or an account."""
        details = [str(entry.detail) for entry in self.world.run_now(self.world.ledger.history(row.payout_id))]
        said = f"{row.reason} {row.reason_code} {row.hold_reason} {row.compensation_reason_code} {details}"
        if any(number in said for number in PRIVATE_NUMBERS):
            self._broken("leak", row.payout_id, "a card or account number in the row or its history")

    def _all(self, topic: str) -> list[Stored]:
        return self.world.events_of(topic)

    def _results(self) -> dict[str, dict[int, Any]]:
        return self._announced("payout_results")

    def _announced(self, topic: str) -> dict[str, dict[int, Any]]:
        """By payout and version; the same version must always say the same, under the same id (K3)."""
        told: dict[str, dict[int, Any]] = defaultdict(dict)
        ids: dict[tuple[str, int], bytes] = {}
        for stored in self._all(topic):
            record = cast("Encoded", stored.value).record
            place = record["payout_id"], record["version"]
            event_id = next(value for name, value in stored.headers if name == "ce_id")
            known = told[place[0]].setdefault(place[1], record)
            if known != record or ids.setdefault(place, event_id) != event_id:
                self._broken("rule", place[0], f"K3: {topic} says two things under version {place[1]}")
        return told
