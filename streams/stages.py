"""Runs the pure stages on a row: opens its sealed request, asks the processors, gives back the event to apply."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from processors.compliance.decide import Thresholds, comply
from processors.compliance.review_policy import ReviewPolicy
from processors.compliance.watch_list import WatchList
from processors.payout.events import Event, Rejected, Screened, Validated
from processors.payout.row import PayoutRow
from processors.payout.step import Stage
from processors.validation.opened import OpenedRequest, Unreadable, open_request
from processors.validation.policy import CorridorPolicy, CorridorRules
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
    review: ReviewPolicy | None = None
    """How people decide; None where nobody asks."""


OpenRequest = tuple[PayoutRequest, OpenedRequest]
"""A request and its decrypted parts."""

KEPT_SECONDS: Final = 20.0
"""How long an opened request is kept for the payout's next stage, which follows within a moment where nothing waits.
Opening costs more than the rest of a payout's way through a worker; personal data should be forgotten soon."""
KEPT_MAX: Final = 2_000
"""Some kilobytes each: what all agents of a worker have in work or before them."""


class RecentlyOpened:
    """Opened requests for a moment, by payout and content; the oldest go first. Prints nothing of them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[str, bytes], tuple[float, OpenRequest]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, row: PayoutRow, request: OpenRequest) -> None:
        """Remember it; beyond the most that are kept the oldest is forgotten."""
        self._kept.pop((row.payout_id, row.bytes_hmac), None)
        self._kept[row.payout_id, row.bytes_hmac] = (self._monotonic(), request)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def take(self, row: PayoutRow) -> OpenRequest | None:
        """What was kept of this row's request, and forget it: whoever goes on with it keeps it again."""
        found = self._kept.pop((row.payout_id, row.bytes_hmac), None)
        return None if found is None or self._is_old(found[0]) else found[1]

    def forget_old(self) -> None:
        """Personal data must not wait in memory for the next payout to push it out."""
        while self._kept and self._is_old(next(iter(self._kept.values()))[0]):
            self._kept.popitem(last=False)

    def _is_old(self, since: float) -> bool:
        return self._monotonic() - since > KEPT_SECONDS


class StageRunner:
    """Validation and compliance for one row. No I/O but decoding with the schema the request was written with."""

    def __init__(self, codec: Codec, keys: Keys, policies: Policies, clock: Clock) -> None:
        self._codec = codec
        self._keys = keys
        self._policies = policies
        self._clock = clock
        self._recent = RecentlyOpened()

    async def open(self, row: PayoutRow, *, again_soon: bool = False) -> OpenRequest:
        """The request as its originator sent it, decrypted. The caller must not keep it.

        `again_soon`: it is opened again in a moment, and kept for that.
        """
        found = self._recent.take(row) or await self._open(row)
        if again_soon:
            self._recent.keep(row, found)
        return found

    @property
    def policy_version(self) -> str:
        """The corridor policy that this worker decides by."""
        return self._policies.corridors.stamp

    def rules_for(self, row: PayoutRow) -> CorridorRules | None:
        """The rules of the row's corridor as they are now; None: it is not served any more."""
        key = (row.source_country, row.target_country, row.currency, row.target_currency)
        return self._policies.corridors.corridors.get(key)

    def forget_old(self) -> None:
        """To be called every second or so."""
        self._recent.forget_old()

    async def _open(self, row: PayoutRow) -> OpenRequest:
        raw = self._keys.sealer.open(row.sealed_request, REQUEST_PURPOSE, row.payout_id)
        decoded = await self._codec.decode("PayoutRequest", raw)
        request = parse_request(decoded.record)
        return request, open_request(request, self._keys.party)

    async def run(self, stage: Stage, row: PayoutRow, already_open: OpenRequest | None = None) -> Event:
        """The event that the stage decides on; `already_open` saves opening it again."""
        request, opened = kept = already_open or await self.open(row)
        self._recent.keep(row, kept)
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
