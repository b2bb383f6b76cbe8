"""Answers to questions before a payout, for a minute: many payouts to one card, or over one rate, ask once (B6, F-08).

    younger than 30 s      used
    from 30 s to 60 s      asked again; used only if Visa does not answer the question now
    older, or past the end that the answer itself has (a quote's expiry): forgotten

Only what passed is kept: a refusal ends its payout, and the next payout asks for itself. Keys are keyed hashes made in
this process, of the whole question but its numbers, so no card number stands in one. Bounded; the oldest go first.
"""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from processors.secrets import CardNumber

KEPT_SECONDS: Final = 60.0
"""A card that was blocked, or an alias that was moved, must not be paid for long."""
KEPT_MAX: Final = 2_000
"""Some hundred bytes each: as many payouts as a worker has in work or before it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What passed, when it was asked, and whether the second try has been made. `card` is an alias's."""

    asked_at_seconds: float
    valid_until: datetime | None = None
    card: CardNumber | None = field(default=None, repr=False)
    asked_again: bool = False


class AnswerCache:
    """The answers of one worker. Prints nothing of them."""

    def __init__(self, *, seconds: Callable[[], float], clock: Callable[[], datetime]) -> None:
        """`seconds` never goes back and counts suspends; `clock` gives aware UTC datetimes."""
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[bytes, Answer] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, *parts: bytes) -> bytes:
        """What an answer is kept under: the same parts, the same key, in this process only."""
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._secret, framed, "sha256")

    def keep(self, key: bytes, *, valid_until: datetime | None = None, card: CardNumber | None = None) -> None:
        """Remember what passed, asked just now."""
        self._put(key, Answer(self._seconds(), valid_until, card))

    def usable(self, key: bytes) -> Answer | None:
        """The answer if it may be used as it is; None: ask (again)."""
        answer = self.valid(key)
        if answer is None:
            return None
        is_young = self._seconds() - answer.asked_at_seconds < KEPT_SECONDS / 2
        return answer if is_young or answer.asked_again else None

    def valid(self, key: bytes) -> Answer | None:
        """The answer as long as it may be used at all."""
        answer = self._kept.get(key)
        if answer is None or not self._is_over(answer):
            return answer
        del self._kept[key]
        return None

    def keep_without_answer(self, key: bytes) -> bool:
        """It was asked again and nobody answered: whether what is known may be used until its end."""
        answer = self.valid(key)
        if answer is not None:
            # In its old place: it grows no younger.
            self._kept[key] = Answer(answer.asked_at_seconds, answer.valid_until, answer.card, asked_again=True)
        return answer is not None

    def forget(self, key: bytes) -> None:
        """It was asked again, and the answer took the place of the one before: nothing is known any more."""
        self._kept.pop(key, None)

    def forget_old(self) -> None:
        """Cards must not wait in memory for the next payout to push them out."""
        while self._kept and self._is_over(next(iter(self._kept.values()))):
            self._kept.popitem(last=False)

    def _put(self, key: bytes, answer: Answer) -> None:
        self._kept.pop(key, None)
        self._kept[key] = answer
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def _is_over(self, answer: Answer) -> bool:
        ended = answer.valid_until is not None and answer.valid_until <= self._clock()
        return ended or self._seconds() - answer.asked_at_seconds >= KEPT_SECONDS
