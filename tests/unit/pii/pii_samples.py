"""Card numbers of every issuer, written in every way that is claimed, and ids that look like none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from random import Random

from ulid import ULID

# First digits from and to, and lengths, as the card schemes publish them.
ISSUERS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (4, 4, (13, 16, 19)),
    (51, 55, (16,)),
    (2221, 2720, (16,)),
    (34, 34, (15,)),
    (37, 37, (15,)),
    (300, 305, (14, 16, 19)),
    (36, 36, (14, 16, 19)),
    (3528, 3589, (16, 17, 18, 19)),
    (50, 50, (13, 14, 15, 16, 17, 18, 19)),
    (56, 58, (13, 14, 15, 16, 17, 18, 19)),
    (60, 69, (13, 14, 15, 16, 17, 18, 19)),
)


def card_number(random: Random) -> str:
    """A number that nobody has chosen, with a right check digit."""
    low, high, lengths = random.choice(ISSUERS)
    prefix = str(random.randint(low, high))
    body = prefix + "".join(random.choices("0123456789", k=random.choice(lengths) - len(prefix) - 1))
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(body)))
    return body + str(-total % 10)


def grouped(number: str) -> list[str]:
    """As it is embossed."""
    if len(number) in (14, 15):
        return [number[:4], number[4:10], number[10:]]
    return [number[place : place + 4] for place in range(0, len(number), 4)]


def _joined(separator: str) -> Callable[[str], str]:
    return lambda number: separator.join(grouped(number))


TWELVE_FORMATS: Mapping[str, Callable[[str], str]] = {
    "digits": lambda number: number,
    "spaces": _joined(" "),
    "hyphens": _joined("-"),
    "dots": _joined("."),
    "no-break spaces": _joined("\u00a0"),
    "thin spaces": _joined("\u2009"),
    "glued to words": lambda number: f"PAN{number}USD",
    "wrapped": lambda number: f"{number[:7]}\n{number[7:]}",
    "URL": _joined("%20"),
    "JSON escapes": lambda number: "".join(f"\\u{ord(digit):04x}" for digit in number),
    "behind an escaped line break": lambda number: f'{{"text": "card:\\n{number}"}}',
    "full-width digits": lambda number: number.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"}),
}
"""What 100,000 numbers are written in."""
MORE_FORMATS: Mapping[str, Callable[[str], str]] = {
    "JSON number": lambda number: f'{{"what":{number}}}',
    "list of one": lambda number: f"['{number}']",
    "bytes": lambda number: repr(number.encode()),
    "XML": lambda number: f"<pan>{number}</pan>",
    "XML escapes": lambda number: "".join(f"&#{ord(digit)};" for digit in number),
    "XML escapes, hexadecimal": lambda number: "".join(f"&#x{ord(digit):x};" for digit in number),
    "Python escapes": lambda number: "".join(f"\\x{ord(digit):x}" for digit in number),
    "URL, every digit": lambda number: "".join(f"%{ord(digit):X}" for digit in number),
    "URL, plus signs": _joined("+"),
    "URL, no-break spaces": _joined("%C2%A0"),
    "URL, thin spaces": _joined("%E2%80%89"),
    "en dashes": _joined("\u2013"),
    "spaced hyphens": _joined(" - "),
    "underscores": _joined("_"),
    "bytes that are no UTF-8": _joined("\ufffd"),
    "boxes of a form": " ".join,
    "invisible characters": _joined("\u200b"),
    "soft hyphens": _joined("\u00ad"),
    "terminal colours": lambda number: f"\x1b[35m{number}\x1b[0m",
    "wrapped between groups": lambda number: (
        f"{grouped(number)[0]} {grouped(number)[1]}\n" + " ".join(grouped(number)[2:])
    ),
    "wrapped, Windows": lambda number: f"{number[:8]}\r\n  {number[8:]}",
    "quoted-printable": lambda number: f"{number[:8]}=\n{number[8:]}",
    "track 2": lambda number: f";{number}=27121010000000000000?",
    "track 1": lambda number: f"%B{number}^OKAFOR/TOMAS^2712101",
    "CSV": lambda number: f"7,{number},EUR",
    "Arabic digits": lambda number: number.translate({ord(digit): ord(digit) + 0x630 for digit in "0123456789"}),
    "with its expiry": lambda number: " ".join([*grouped(number), "12/27"]),
}
"""What each issuer's test numbers are written in besides."""

IDENTIFIERS: Mapping[str, Callable[[Random], str]] = {
    "UUID": lambda random: str(uuid.UUID(int=random.getrandbits(128), version=4)),
    "UUID without hyphens": lambda random: uuid.UUID(int=random.getrandbits(128), version=4).hex,
    "ULID": lambda random: str(
        ULID((1_760_000_000_000 + random.getrandbits(37)).to_bytes(6, "big") + random.randbytes(10))
    ),
    "retrieval reference number": lambda random: f"{random.randint(0, 9)}{random.randint(1, 366):03}"
    f"{random.randint(0, 23):02}{random.randrange(10**6):06}",
    "systems trace audit number": lambda random: str(random.randint(100_000, 999_999)),
    "payout id": lambda random: f"order-20{random.randint(24, 40)}-{random.randrange(10**6):06}",
    "payout id with a ULID": lambda random: f"pay_{IDENTIFIERS['ULID'](random)}",
    "sender reference": lambda random: "P" + "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=15)),
    "seconds": lambda random: str(random.randint(1_600_000_000, 2_200_000_000)),
    "milliseconds": lambda random: str(random.randint(1_600_000_000_000, 1_999_999_999_999)),
    "nanoseconds": lambda random: str(random.randint(16 * 10**17, 2 * 10**18 - 1)),
    "time": lambda random: f"2026-{random.randint(1, 12):02}-{random.randint(1, 28):02}T{random.randint(0, 23):02}"
    f":{random.randint(0, 59):02}:{random.randint(0, 59):02}.{random.randrange(10**6):06}+00:00",
    "traceparent": lambda random: f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01",
    "SHA-256": lambda random: random.randbytes(32).hex(),
    "record": lambda random: f"payout_requests-{random.randint(0, 11)}-{random.getrandbits(32)}",
    "status identifier": lambda random: f"{random.randint(1_600_000_000, 2_000_000_000)}_{random.randint(0, 999)}"
    f"_{random.randint(0, 99_999)}_l73c{random.randint(100, 999)}_VDP_ARM",
    "amount": lambda random: f"{random.randint(1, 10**9)}.{random.randint(0, 99):02}",
    "ratio": lambda random: repr(random.random()),
    "address": lambda random: f"10.{random.randint(0, 255)}.{random.randint(0, 255)}.{random.randint(1, 254)}:9092",
    "transaction identifier by name": lambda random: f'"transactionIdentifier": {random.randrange(10**14, 10**15)}',
}  # fmt: skip
"""What our logs, files and topics are full of."""


def identifiers(random: Random, count: int) -> Iterator[tuple[str, str]]:
    """So many, of every kind in turn: name and text."""
    kinds = tuple(IDENTIFIERS.items())
    for place in range(count):
        name, make = kinds[place % len(kinds)]
        yield name, make(random)
