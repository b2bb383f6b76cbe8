"""What personal data stands where in a text."""

import re
from collections.abc import Collection, Iterable
from typing import Final

from processors.pii.cards import find_cards, may_hold_cards
from processors.pii.escapes import unescaped
from processors.pii.hits import ALL_KINDS, Hit, Kind
from processors.pii.patterns import find_others
from schemas.card_numbers import find_card_numbers

_ORDER: Final = {kind: place for place, kind in enumerate(Kind)}
# Every kind has three digits, or an @, also escaped.
_MAY_HOLD: Final = re.compile(r"[@%&\\]|\d\D{0,3}\d\D{0,3}\d")


def find(text: str, kinds: Collection[Kind] = ALL_KINDS, *, eager: bool = False) -> list[Hit]:
    """Hits of these kinds, in order and apart. Linear in the text's length.

    What stands under escapes is found too, and told with its place in the text as it was given. `eager` takes for a
    card number also what is grouped as no card is, if `schemas.card_numbers` does: for masking, not for accusing.
    """
    if _MAY_HOLD.search(text) is None:
        return []
    hits = _plain(text, kinds, eager)
    if (meant := unescaped(text)) is not None:
        theirs = _plain(meant.text, kinds, eager)
        hits += [Hit(hit.kind, meant.source(hit.start), meant.source(hit.end)) for hit in theirs]
    return apart(hits) if hits else hits


def apart(hits: Iterable[Hit]) -> list[Hit]:
    """Hits in order; those that overlap become one, of the kind that `Kind` names first."""
    joined: list[Hit] = []
    for hit in sorted(hits, key=_place):
        if joined and hit.start < joined[-1].end:
            last = joined[-1]
            kind = min(last.kind, hit.kind, key=_ORDER.__getitem__)
            joined[-1] = Hit(kind, last.start, max(last.end, hit.end))
        else:
            joined.append(hit)
    return joined


def _place(hit: Hit) -> tuple[int, int]:
    return hit.start, hit.end


def _plain(text: str, kinds: Collection[Kind], eager: bool) -> list[Hit]:
    hits: list[Hit] = []
    if Kind.CARD in kinds and may_hold_cards(text):
        hits += [Hit(Kind.CARD, *span) for span in find_cards(text)]
        if eager:
            hits += [Hit(Kind.CARD, *span) for span in find_card_numbers(text)]
    if kinds is ALL_KINDS:
        hits += find_others(text)
    elif len(kinds) > (Kind.CARD in kinds):
        hits += [hit for hit in find_others(text) if hit.kind in kinds]
    return hits
