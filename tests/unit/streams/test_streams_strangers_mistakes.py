"""What examples/node/README.md says of a wrong record is what becomes of it."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path

import fastavro

from schemas import catalog
from schemas.headers import header_text
from tests.unit.streams.streams_world import REQUESTS, World

README = Path(__file__).resolve().parents[3] / "examples" / "node" / "README.md"
PAYOUT_ID = "payout-0001"
_ROW = re.compile(r"^\| `([A-Z_]+)` \| .+ \|$", re.MULTILINE)


async def _mistakes(world: World) -> list[tuple[str, bytes, bytes | None]]:
    """(reason code, value, key) of each mistake that the README's table tells of."""
    right = await world.codec.encode("PayoutRequest", world.request(PAYOUT_ID))
    confirmation = {
        "compensation_id": "c",
        "payout_id": PAYOUT_ID,
        "originator_id": "o",
        "confirmation_reference": "r",
        "outcome": "COMPLETED",
        "confirmed_at": world.now,
    }
    no_id = await world.codec.encode("PayoutRequest", world.request("x" * 65))
    key = PAYOUT_ID.encode()
    return [
        ("NO_MAGIC_BYTE", json.dumps({"payout_id": PAYOUT_ID}).encode(), key),
        ("NO_MAGIC_BYTE", right[5:], key),
        ("UNKNOWN_SCHEMA_ID", struct.pack(">BI", 0, 41) + right[5:], key),
        ("WRONG_SCHEMA", await world.codec.encode("CompensationConfirmation", confirmation), key),
        # A registry's small id survives what a string makes of the rest.
        ("MALFORMED", right[:5] + right[5:].decode("utf-8", "replace").encode(), key),
        ("MALFORMED", right[:5] + _with_nanoseconds(world), key),
        ("TRAILING_BYTES", right + right, key),
        ("OVER_LIMIT", right + bytes(256 * 1024), key),
        ("KEY_IS_NOT_PAYOUT_ID", right, b"order-1"),
        ("PAYOUT_ID_UNUSABLE", no_id, None),
    ]


def _with_nanoseconds(world: World) -> bytes:
    """As avsc writes it, which knows no logical types: a number is a number."""
    plain = json.loads(catalog.schema_text("PayoutRequest").replace(',"logicalType":"timestamp-micros"', ""))
    buffer = io.BytesIO()
    request = world.request(PAYOUT_ID) | {"requested_at": int(world.now.timestamp() * 1e9), "expires_at": None}
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(plain), request)
    return buffer.getvalue()


async def test_each_mistake_of_the_readme_is_the_dead_letter_it_names_and_can_be_made_good(world: World) -> None:
    """K6, P8: the reason is in the headers, the place is the key; the same payout_id, corrected, is paid."""
    mistakes = await _mistakes(world)
    for _, value, key in mistakes:
        world.broker.put(REQUESTS, key, value)
    await world.settle()
    letters = world.broker.topics["payout_dead_letters"]
    told = [(header_text(letter.headers, "reason_code"), letter.key) for letter in letters]
    assert told == [(code, f"{REQUESTS}-0-{offset}".encode()) for offset, (code, _, _) in enumerate(mistakes)]
    assert {code for code, _, _ in mistakes} == set(_ROW.findall(README.read_text("utf-8")))
    assert not world.rows()
    await world.ask(PAYOUT_ID)
    await world.settle()
    assert (await world.row(PAYOUT_ID)).state == "PAID"
