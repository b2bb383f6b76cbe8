"""Originators, reviewers and operators of a simulated world: what they send, confirm, decide and change."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from ledger.interface import Change, LeasesStillLive
from processors.money import Money
from processors.payout import state_machine
from processors.payout.events import Cancelled, Event, Held, Released, ResolutionProposed, Resolved
from processors.payout.modes import Mode
from processors.payout.row import PayoutRow, PayoutState
from processors.payout.step import Step
from sandbox.simulation.contents import Encoded, SimulatedRequest, content_of, request_of
from sandbox.simulation.plan import Copy, PayoutPlan

if TYPE_CHECKING:
    from sandbox.simulation.broker import Stored
    from sandbox.simulation.world import World

RELEASE_AFTER_SECONDS: Final = (2.0, 30.0)
TRIES_MAX: Final = 5
"""An operator's command reads and decides again when somebody was faster; then he looks again himself."""


class People:
    """Everybody outside. They act in nobody's process: no accident of ours stops them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"people-{world.plan.seed}")
        self.said: set[str] = set()
        self._mode_changes = 0
        self.intentions = 0
        """What people will still say or do: a world is not at rest before."""

    # Originators.

    def send(self, plan: PayoutPlan) -> None:
        """A payout request and its copies."""
        world = self._world
        request, opened = request_of(plan, world.now())
        world.opened[plan.payout_id] = request, opened
        content = content_of(request)
        key = plan.payout_id.encode()
        value = SimulatedRequest.of(request, opened, content, b"0")
        stored = world.broker.append("payout_requests", key, value)
        world.watch.accepted(stored, plan.payout_id, content, request.amount)
        for number, copy in enumerate(plan.copies, start=1):
            world.at(world.now_seconds + copy.after_seconds, self._send_copy, plan, copy, number)

    def _send_copy(self, plan: PayoutPlan, copy: Copy, number: int) -> None:
        world = self._world
        request, opened = world.opened[plan.payout_id]
        if copy.other_content:
            request = replace(request, amount=Money(request.amount.amount_minor + 10, request.amount.currency))
        content = content_of(request)
        value = SimulatedRequest.of(request, opened, content, str(number).encode())
        key = plan.payout_id.encode()
        stored = world.broker.append("payout_requests", key, value, other_partitioner=copy.other_partition)
        world.watch.accepted(stored, plan.payout_id, content, request.amount)

    def send_rubbish(self, number: int) -> None:
        """Something that nobody can read; `malformed` decodes and is no request."""
        world = self._world
        value = b"malformed" if number % 2 else b"\xff\x00rubbish"
        stored = world.broker.append("payout_requests", f"rubbish-{number}".encode(), value)
        world.watch.accepted(stored, None, b"")

    # Those who read what we publish.

    def hear(self, stored: Stored) -> None:
        """A case or a demand was published: answer it after a while."""
        if stored.topic == "payout_reviews":
            self._review(heard_of(stored))
        elif stored.topic == "payout_failed_requires_compensation":
            self._confirm(heard_of(stored))

    def _review(self, case: Mapping[str, Any]) -> None:
        """Decide, now and then twice, now and then both ways: only the first word on an open case counts (R1)."""
        plan = self._world.plans[case["payout_id"]]
        if case["case_id"] in self.said:
            return
        self.said.add(case["case_id"])
        words = ["APPROVE" if plan.reviewer_approves else "REJECT"]
        if self._rng.random() < 0.3:
            words.append(words[0])
        for number, word in enumerate(words):
            decision = {
                "case_id": case["case_id"],
                "payout_id": case["payout_id"],
                "decision": word,
                "reviewer": f"reviewer-{number}",
                "reason_code": "SIMULATED",
            }
            self._say("payout_review_decisions", "ReviewDecision", decision, self._rng.uniform(0.1, 20.0))

    def _confirm(self, demand: Mapping[str, Any]) -> None:
        """The originator does what is his to do, and says so, sometimes twice (C2)."""
        if demand["executor"] != "ORIGINATOR" or demand["compensation_id"] in self.said:
            return
        self.said.add(demand["compensation_id"])
        plan = self._world.plans[demand["payout_id"]]
        confirmation = {
            "compensation_id": demand["compensation_id"],
            "payout_id": demand["payout_id"],
            "originator_id": demand["originator_id"],
            "outcome": "COMPLETED" if plan.originator_completes else "REFUSED",
            "confirmation_reference": f"done-{demand['payout_id']}",
        }
        if plan.originator_completes:
            self._world.watch.handed_back(demand["payout_id"])
        for _ in range(self._rng.choice((1, 1, 2))):
            self._say(
                "payout_compensation_confirmations",
                "CompensationConfirmation",
                confirmation,
                self._rng.uniform(0.1, 10.0),
            )

    def _say(self, topic: str, schema: str, record: Mapping[str, Any], after_seconds: float) -> None:
        self._later(after_seconds, self._world.broker.append, topic, record["payout_id"].encode(),
                    Encoded.of(schema, record))  # fmt: skip

    def _later(self, after_seconds: float, act: Callable[..., object], *arguments: Any) -> None:
        self.intentions += 1

        def now() -> None:
            self.intentions -= 1
            act(*arguments)

        self._world.at(self._world.now_seconds + after_seconds, now)

    # Operators.

    def act(self) -> None:
        """One operator does one thing to one payout."""
        rows = self._world.rows()
        if not rows:
            return
        row = self._rng.choice(rows)
        action = self._rng.choice((self._hold, self._hold, self._cancel, self._release))
        action(row)

    def _hold(self, row: PayoutRow) -> None:
        if self.apply(row.payout_id, Held("OPERATOR")):
            self._later(self._rng.uniform(*RELEASE_AFTER_SECONDS), self._release_again, row.payout_id)

    def _release_again(self, payout_id: str) -> None:
        row = self._world.row(payout_id)
        if row is not None and row.held and row.hold_reason == "OPERATOR":
            self.apply(payout_id, Released("operator"))

    def _release(self, row: PayoutRow) -> None:
        if row.held and row.hold_reason == "OPERATOR":
            self.apply(row.payout_id, Released("operator"))

    def _cancel(self, row: PayoutRow) -> None:
        self.apply(row.payout_id, Cancelled("operator", "asked for"))

    def resolve_held(self) -> None:
        """At the end two people look at Visa's own account and end what only people can end (S6)."""
        for row in self._world.rows():
            undecided = row.state in (PayoutState.UNKNOWN, PayoutState.PENDING)
            if row.held and undecided and row.hold_reason != "OPERATOR":
                self._resolve(row)

    def _resolve(self, row: PayoutRow) -> None:
        world = self._world
        paid = any(effect.approved and not effect.returned for effect in world.visa.pushes_of(row.payout_id))
        if not self.apply(row.payout_id, ResolutionProposed(paid, "Visa's account", "anna")):
            return
        proposed = world.row(row.payout_id)
        if proposed is not None:
            self.apply(row.payout_id, Resolved(paid, "Visa's account", "anna", "bertil", proposed.version))

    def set_mode(self, mode: Mode) -> None:
        """`payouts modes set`: from its return on nothing new may leave (L9)."""
        world = self._world
        world.neutral_task(self._set_mode(mode))

    async def _set_mode(self, mode: Mode) -> None:
        world = self._world
        self._mode_changes += 1
        mine = self._mode_changes
        world.watch.mode(None)
        setting = world.ledger.set_mode(mode, "operator", "simulated", 60.0)
        world.tell(f"operator: mode {mode.value}")
        for worker in world.workers:
            worker.look_soon()
        try:
            await setting
        except LeasesStillLive:
            return  # the command says so, and nobody relies on it
        if mine == self._mode_changes:  # else another operator has set it while this one waited for calls under way
            world.watch.mode(mode.value)

    def apply(self, payout_id: str, event: Event) -> bool:
        """What a command does: read, decide, compare and set. True when it was written."""
        world = self._world
        for _ in range(TRIES_MAX):
            row = world.row(payout_id)
            if row is None:
                return False
            step = state_machine.apply(row, event, world.now(), world.schedule)
            if not isinstance(step, Step):
                return False
            change = Change(row, step.row, step.transition, "operator", step.detail)
            if world.run_now(world.ledger.commit(change)) is not None:
                world.last_append = world.now_seconds
                world.tell(f"operator: {step.transition} {payout_id}")
                return True
        return False


def heard_of(stored: Stored) -> Mapping[str, Any]:
    """The record in an event of ours."""
    return cast("Encoded", stored.value).record
