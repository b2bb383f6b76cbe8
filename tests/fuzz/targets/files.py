"""Files that people write or keep: lines of `payouts send`, policies, watch lists, action codes, plans for offsets."""

import csv
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from ops.failures import CommandFailed
from ops.offset_plans import (
    CommittedPlace,
    Effect,
    FileChanged,
    FileUnreadable,
    Move,
    OffsetBackup,
    OffsetPlan,
    TargetUnusable,
    decode_backup,
    decode_plan,
    encode,
    parse_csv,
    parse_datetime,
    parse_duration,
    parse_topics,
    undo_of,
)
from ops.payout_lines import CSV_COLUMNS, BadLine, Line, RequestBuilder, csv_lines, json_lines
from ops.send import _prepared
from processors.compliance.watch_list import WatchListInvalid, parse_watch_list
from processors.validation.policy import PolicyInvalid, parse_policy
from processors.visa.action_codes import ActionCodesInvalid, parse_action_codes
from schemas.card_numbers import find_card_numbers
from schemas.codec import BlockingCodec
from tests.fuzz.harness import Finding, Target, check, check_error, check_message
from tests.fuzz.targets.boxes import key
from tests.fuzz.values import CARDS, change_json, hostile_text

LINES_READ: Final = 200
"""Of one input: a few kilobytes of line breaks are many lines and nothing new."""
_NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_POLICIES: Final = Path(__file__).parents[3] / "policies"

# --- payouts send -------------------------------------------------------------------------------------------------


@functools.cache
def _codec() -> BlockingCodec:
    return BlockingCodec()


def _send(data: bytes, read: Callable[[io.BytesIO], Iterator[Line]]) -> None:
    """As `payouts send` does it, line by line: a request, or a refusal that quotes nothing."""
    builder = RequestBuilder(
        lambda: key().export_public(as_dict=True), lambda: _NOW, lambda: "01KTESTTESTTESTTESTTESTTE"
    )
    try:
        for count, line in enumerate(read(io.BytesIO(data))):
            if count == LINES_READ:
                break
            _line(line, builder)
    except (BadLine, CommandFailed) as error:  # the headings, or the key
        check_error(error)


def _line(line: Line, builder: RequestBuilder) -> None:
    given = json.dumps(line.document, default=str)
    try:
        prepared = _prepared(line, builder, _codec())
    except BadLine as error:
        check_error(error)
        return
    record = _codec().decode("PayoutRequest", prepared.value).record
    check(record["payout_id"] == prepared.payout_id, "a request under another payout_id")
    _check_nothing_in_clear(given, record)


def _check_nothing_in_clear(given: str, record: dict[str, Any]) -> None:
    """P6: no number of the line stands alone in the record, wherever it was put."""
    shown = set(_numbers(json.dumps(record, default=str)))
    # A Visa transaction identifier has 15 digits and may look like a number.
    if any(len(digits) != 15 and digits in shown for digits in _numbers(given)):
        raise Finding("a card number of the line stands in clear in the record")


def _numbers(text: str) -> Iterator[str]:
    return (text[start:end] for start, end in find_card_numbers(text))


def _document() -> dict[str, Any]:
    party = {"name": "Ann Marchetti", "address": {"line1": "1 High St", "city": "Leeds", "country": "GB"}}
    return {
        "payout_id": "order-2026-0001", "originator_id": "shop-1", "amount": {"amount_minor": 1250, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "funding": {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": "ref-1"}},
        "destination": {"kind": "CARD", "card": {"card": {"primary_account_number": CARDS[2], "expiry": "2030-01"}}},
        "personal_data": {"sender": party, "recipient": {"name": "Bob Okonkwo", "date_of_birth": "1990-01-31"}},
        "metadata": {"batch": "7"}, "requested_at": "2026-03-01T12:00:00Z", "purpose": "FAMILY",
    }  # fmt: skip


def _documents() -> Iterator[dict[str, Any]]:
    pull = {
        "receipt_id": "aft-1", "status": "APPROVED", "transaction_identifier": "381228649430014",
        "systems_trace_audit_number": 451017, "retrieval_reference_number": "606011451018", "approval_code": "12AB56",
        "acquiring_bin": "408999", "captured_at": "2026-03-01T11:57:00+00:00",
        "amount": {"amount_minor": 1250, "currency": "USD"}, "card": {"primary_account_number": CARDS[1]},
    }  # fmt: skip
    yield _document()
    yield {**_document(), "funding": {"kind": "AFT", "aft": pull}}
    yield {**_document(), "funding": {"kind": "PIS", "pis": {"payment_id": "pis-1", "status": "EXECUTED"}}}
    yield {**_document(), "destination": {"kind": "CARD", "card": {"token_reference": "tok_1"}}}
    yield {**_document(), "fx_quote": {"quote_id": "q", "rate": "1.5", "expires_at": "2026-03-02T00:00:00Z"}}


def _json_seeds() -> Iterator[bytes]:
    documents = [json.dumps(document).encode() for document in _documents()]
    yield from documents
    yield b"\xef\xbb\xbf" + b"\n".join(documents)
    yield b'{"payout_id": "order-2026-0001", "payout_id": "order-2026-0002"}\n[]\nnull\n' + b"[" * 3_000


def _change_json_lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    try:
        lines[place] = json.dumps(change_json(json.loads(lines[place]), random)).encode()
    except (ValueError, RecursionError):
        return data
    return b"\n".join(lines)


def _cells_of(document: dict[str, Any]) -> dict[str, str]:
    found = {}
    for heading, column in CSV_COLUMNS.items():
        value: Any = document
        for name in column.path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str | int):
            found[heading] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _csv_text(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _csv_seeds() -> Iterator[bytes]:
    for document in _documents():
        cells = _cells_of(document)
        yield _csv_text([list(cells), list(cells.values())])
        yield _csv_text([[*cells, "metadata_batch"], [*cells.values(), "7"], [*cells.values(), ""]])
    yield _csv_text([list(CSV_COLUMNS)])


def _change_csv(data: bytes, random: Random) -> bytes:
    """A cell replaced, a column taken away or named anew."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode())))
    except (csv.Error, UnicodeDecodeError):
        return data
    rows = [row for row in rows if row]
    if not rows:
        return data
    what = random.randrange(6)
    row = random.choice(rows[1:] or rows)
    place = random.randrange(len(row))
    if what == 0:
        for each in rows:
            del each[min(place, len(each) - 1)]
    elif what == 1:
        rows[0][min(place, len(rows[0]) - 1)] = random.choice((*CSV_COLUMNS, f"metadata_{hostile_text(random)}"))
    elif what == 2:
        for each, cell in zip(rows, (random.choice(tuple(CSV_COLUMNS)), *["x"] * len(rows)), strict=False):
            each.append(cell)
    else:
        row[place] = hostile_text(random)
    return _csv_text(rows)


# --- policies -----------------------------------------------------------------------------------------------------


def _policies(data: bytes) -> None:
    """The first byte chooses the file's kind."""
    (_corridors if data[:1] < b"\x80" else _action_codes)(data[1:])


def _corridors(data: bytes) -> None:
    try:
        policy = parse_policy(data, "corridors.yaml")
    except PolicyInvalid as error:
        check_message(str(error))
        return
    check(bool(policy.version), "a policy without a version")
    check(all(rules.max_value_minor > 0 for rules in policy.corridors.values()), "a corridor without a limit")


def _policy_seeds() -> Iterator[bytes]:
    shipped = (_POLICIES / "corridors.yaml").read_bytes()
    document = yaml.safe_load(shipped)
    document["corridors"] = document["corridors"][:2]
    yield b"\0" + shipped
    yield b"\0" + json.dumps(document).encode()
    yield b"\0" + yaml.safe_dump(document).encode()
    yield b"\0a: &a [x]\nb: *a\n"
    yield b"\0version: 2026-01-01\ncorridors: !!python/object:os.system {}\n"
    entry = {"meaning": "m", "category": "policy", "declined": True, "source": "openapi"}
    yield b"\xff" + json.dumps({"codes": {"05": entry, "91": {**entry, "declined": False}}}).encode()
    yield b'\xffcodes: {"05": {meaning: m, category: policy, declined: true, source: openapi}}'


def _change_yaml(data: bytes, random: Random) -> bytes:
    try:
        document = json.loads(data[1:])
    except (ValueError, RecursionError):
        return data
    return data[:1] + json.dumps(change_json(document, random)).encode()


def _watch_list(data: bytes) -> None:
    try:
        found = parse_watch_list(data, "watch_list.csv")
    except WatchListInvalid as error:
        check_message(str(error))
        return
    check(bool(found.names) and len(found.names) == len(found.entry_ids), "a list without names, or names of nobody")
    check(set(found.entry_ids) == set(found.entries), "an entry that cannot be found by any name")


def _watch_list_seeds() -> Iterator[bytes]:
    yield (_POLICIES / "watch_list.csv").read_bytes()[:1_500].rpartition(b"\n")[0]
    yield b"entry_id,name,aliases,country,programme\nE-1,Ann Marchetti,Anna M;A. Marchetti,IT,SYN\n"
    yield b'entry_id,name,aliases,country,programme\r\nE-2,"O\'Neil, Bob",,,\r\nE-3,"""Q""",;;,x,"a\nb"\r\n'
    yield "entry_id,name,aliases,country,programme\nE-4,Łukasz Ærø,Đorđe;ﬁ,PL,x\n".encode()


def _change_watch_list(data: bytes, random: Random) -> bytes:
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    except (csv.Error, UnicodeDecodeError):
        return data
    if len(rows) < 2:
        return data
    row = random.choice(rows[1:])
    row[random.randrange(len(row))] = hostile_text(random)
    return _csv_text(rows)


def _action_codes(data: bytes) -> None:
    try:
        parse_action_codes(data.decode("utf-8", "replace"))
    except ActionCodesInvalid as error:
        check_message(str(error))


# --- plans for offsets --------------------------------------------------------------------------------------------


def _offset_files(data: bytes) -> None:
    """The first byte chooses: a plan, a backup, a file of offsets, or what is typed."""
    kind, data = data[:1], data[1:]
    try:
        if kind < b"\x40":
            plan = decode_plan(data)
            check(encode(plan) == data, "a plan that is read in another form than it was written")
            check(decode_plan(encode(undo_of(plan, _NOW))).undoes == plan.digest, "an undo plan that undoes another")
            check(all(move.delta == len(move.skipped) - len(move.replayed) for move in plan.moves
                      if move.earliest <= move.stands <= move.latest and move.earliest <= move.new <= move.latest),
                  "offsets that are neither skipped nor read again")  # fmt: skip
        elif kind < b"\x80":
            check(encode(decode_backup(data)) == data, "a backup that is read in another form than it was written")
        elif kind < b"\xc0":
            check(bool(parse_csv(data.decode("utf-8", "replace"), "payouts")), "a file without offsets")
        else:
            _typed(data.decode("utf-8", "replace"))
    except (FileUnreadable, FileChanged, TargetUnusable) as error:
        check_error(error)


def _typed(text: str) -> None:
    for parse in (parse_datetime, parse_duration, lambda word: parse_topics(word.split())):
        try:
            parse(text)
        except TargetUnusable as error:
            check_error(error)


def _offset_seeds() -> Iterator[bytes]:
    moves = tuple(
        Move(topic="payout_requests", partition=number, earliest=0, latest=90, old=old, new=new, clamped=False)
        for number, (old, new) in enumerate(((10, 40), (40, 10), (None, 5)))
    )
    ids = {"payout_requests": "x1fYb5c3Q5mVg1u2nYb5cQ"}
    plan = OffsetPlan(
        cluster_id="MkU3OEVBNTcwNTJENDM2Qg", group="payouts", made_at=_NOW, max_age_seconds=3600, topic_ids=ids,
        target="--to-offset 40", moves=moves, skip=Effect(records=35, payouts=30, money={"USD": 75_000}),
        replay=Effect(records=30, payouts=30, ended=29, open=1, money={"USD": -5, "???": 10**20}),
    )  # fmt: skip
    kept = (CommittedPlace(topic="payout_requests", partition=0, offset=40),)
    backup = OffsetBackup(cluster_id="c-1", group="payouts", made_at=_NOW, topic_ids=ids, offsets=kept)
    yield b"\0" + encode(plan)
    yield b"\0" + encode(undo_of(plan, _NOW))
    yield b"\x40" + encode(backup)
    yield b"\x80payout_requests,0,40\npayouts,payout_retry,1,8\n"
    for typed in (b"2026-03-01T12:00:00.000+01:00", b"P1DT2H30M5.5S", b"payout_requests:0,1 payout_retry"):
        yield b"\xc0" + typed


def _change_offset_file(data: bytes, random: Random) -> bytes:
    """A plan or backup is changed and given its right digest again: else nothing but the digest is ever looked at."""
    try:
        document = json.loads(data[1:])
        document["content"] = change_json(document["content"], random)
        canonical = json.dumps(document["content"], sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError, KeyError, TypeError):
        return data[:1] + data[1:].replace(b"0", hostile_text(random).encode("utf-8", "replace"), 1)
    document["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    return data[:1] + json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


TARGETS: Final = (
    Target(
        "offset_files", "plans and backups of `payouts offsets`, files of offsets, and what is typed", _offset_files,
        _offset_seeds, _change_offset_file, longest_bytes=16_384,
    ),
    Target(
        "send_json", "lines of JSON for `payouts send`", functools.partial(_send, read=json_lines), _json_seeds,
        _change_json_lines, longest_bytes=16_384,
    ),
    Target(
        "send_csv", "a CSV file for `payouts send`", functools.partial(_send, read=csv_lines), _csv_seeds, _change_csv,
    ),
    Target(
        "policies", "the corridor policy and Visa's table of action codes, YAML", _policies, _policy_seeds,
        _change_yaml, longest_bytes=16_384,
    ),
    Target("watch_list", "the watch list, CSV", _watch_list, _watch_list_seeds, _change_watch_list),
)  # fmt: skip
