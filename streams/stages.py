"""Runs the pure stages on a row: opens its sealed request, asks the processors, gives back the event to apply."""

from dataclasses import dataclass
from datetime import datetime

from processors.compliance.decide import Thresholds, comply
from processors.compliance.watch_list import WatchList
from processors.payout.events import Event, Rejected, Screened, Validated
from processors.payout.row import PayoutRow
from processors.payout.step import Stage
from processors.validation.opened import OpenedRequest, Unreadable, open_request
from processors.validation.policy import CorridorPolicy
from processors.validation.request import PayoutRequest, parse_request
from processors.validation.validate import Invalid, ValidationLimits, validate
from schemas.codec import Codec
from streams.clock import Clock
from streams.keys import Keys

REQUEST_PURPOSE = "request"
"""What a sealed request is bound to, with its payout_id: a box moved to another row or column does not open."""


@dataclass(frozen=True, slots=True)
class Policies:
    """What decisions are made by; their versions are stamped on every row (promise P7)."""

    corridors: CorridorPolicy
    watch_list: WatchList
    thresholds: Thresholds
    limits: ValidationLimits


OpenRequest = tuple[PayoutRequest, OpenedRequest]
"""A request and its decrypted parts, held for as long as one handler runs."""


class StageRunner:
    """Validation and compliance for one row. No I/O but decoding with the schema the request was written with."""

    def __init__(self, codec: Codec, keys: Keys, policies: Policies, clock: Clock) -> None:
        self._codec = codec
        self._keys = keys
        self._policies = policies
        self._clock = clock

    async def open(self, row: PayoutRow) -> OpenRequest:
        """The request as its originator sent it, decrypted. The caller must not keep it."""
        raw = self._keys.sealer.open(row.sealed_request, REQUEST_PURPOSE, row.payout_id)
        decoded = await self._codec.decode("PayoutRequest", raw)
        request = parse_request(decoded.record)
        return request, open_request(request, self._keys.party)

    async def run(self, stage: Stage, row: PayoutRow, already_open: OpenRequest | None = None) -> Event:
        """The event that the stage decides on; `already_open` saves opening it again."""
        request, opened = already_open or await self.open(row)
        now = self._clock()
        if stage is Stage.VALIDATE:
            return self._validate(row, request, opened, now)
        return self._comply(request, opened)

    def _validate(self, row: PayoutRow, request: PayoutRequest, opened: OpenedRequest, now: datetime) -> Event:
        verdict = validate(
            request,
            opened,
            receipt_owned=row.receipt_owned,
            policy=self._policies.corridors,
            now=now,
            profile=self._policies.limits,
        )
        if isinstance(verdict, Invalid):
            return Rejected(verdict.reason_code.value, verdict.reason, verdict.policy_version)
        return Validated(verdict.policy_version)

    def _comply(self, request: PayoutRequest, opened: OpenedRequest) -> Event:
        personal = None if isinstance(opened.personal, Unreadable) else opened.personal
        verdict = comply(
            personal,
            request.corridor,
            self._policies.corridors,
            self._policies.watch_list,
            self._policies.thresholds,
        )
        return Screened(
            verdict=verdict.verdict,
            reason_code=verdict.reason_code.value,
            reason=verdict.reason,
            policy_version=verdict.policy_version,
            list_version=verdict.list_version,
            score_basis_points=verdict.score_basis_points,
            matched_entry_id=verdict.matched_entry_id,
            matched_party=verdict.matched_party.upper() if verdict.matched_party else None,
        )
