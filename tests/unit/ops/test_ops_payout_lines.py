"""Lines of requests: what is accepted, what is refused, and that no refusal quotes what stood there (P6)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.failures import CommandFailed
from ops.payout_lines import (
    CSV_COLUMNS,
    LINE_BYTES_MAX,
    BadLine,
    Line,
    RequestBuilder,
    check_nothing_in_clear,
    csv_lines,
    json_lines,
)
from ops.send import Batch, prepare, read_party_key
from processors.personal_data import PartyKeys
from streams.keys import create_keys
from streams.settings import Settings

CARD = "4111111111111111"
NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def keys_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of keys: making RSA keys takes a while."""
    directory = tmp_path_factory.mktemp("keys") / "set"
    create_keys(directory)
    return directory


@pytest.fixture
def chosen(keys_directory: Path) -> Settings:
    """Settings that need nothing of the environment."""
    return Settings.model_validate({"payouts_profile": "test", "payouts_keys_directory": keys_directory})


@pytest.fixture
def opened(keys_directory: Path) -> PartyKeys:
    """The processor's side of the keys."""
    return PartyKeys.from_jwks((keys_directory / "party_private.jwks.json").read_text())


def document(**changes: Any) -> dict[str, Any]:
    """A request in clear."""
    whole: dict[str, Any] = {
        "payout_id": "order-2026-0001",
        "originator_id": "shop-1",
        "amount": {"amount_minor": 1250, "currency": "USD"},
        "corridor": {
            "source_country": "US", "target_country": "US", "source_currency": "USD", "target_currency": "USD",
        },
        "funding": {"kind": "INTERNAL", "internal": {"debit_confirmed": True, "confirmation_ref": "ref-1"}},
        "destination": {"kind": "CARD", "card": {"card": {"primary_account_number": CARD, "expiry": "2030-01"}}},
        "personal_data": {"sender": {"name": "Ann Marchetti"}, "recipient": {"name": "Bob Okonkwo"}},
    }  # fmt: skip
    return whole | changes


def prepared(text: bytes | str, chosen: Settings, read: Callable[..., Iterator[Line]] = json_lines) -> Batch:
    """The batch of a file."""
    raw = text.encode() if isinstance(text, str) else text
    return prepare(read(io.BytesIO(raw)), chosen, None)


def refusal(chosen: Settings, **changes: Any) -> str:
    """Why a document with these changes is refused."""
    batch = prepared(json.dumps(document(**changes)), chosen)
    assert batch.prepared == []
    (line,) = batch.refused
    assert line.problem is not None
    return line.problem


def test_a_good_line_becomes_one_encoded_request(chosen: Settings) -> None:
    """Defaults: requested_at is now, correlation_id a ULID."""
    batch = prepared(json.dumps(document()), chosen)
    (item,) = batch.prepared
    assert (item.line, item.payout_id, len(item.correlation_id)) == (1, "order-2026-0001", 26)
    assert CARD.encode() not in item.value
    assert b"Marchetti" not in item.value
    assert CARD not in repr(item)


def test_what_is_encrypted_opens_with_the_processors_key(keys_directory: Path, opened: PartyKeys) -> None:
    """P6: cards and parties are encrypted by us, to the processor's public key."""
    aft = {"receipt_id": "r-1", "status": "APPROVED", "card": {"primary_account_number": CARD}}
    public = read_party_key(keys_directory / "party_public.jwks.json")
    record = RequestBuilder(lambda: public, lambda: NOW).build(document(funding={"kind": "AFT", "aft": aft}))
    assert opened.open_card(record["destination"]["card"]["encrypted_card"]).expiry == "2030-01"
    assert opened.open_card(record["funding"]["aft"]["encrypted_card"]).number.reveal() == CARD
    assert opened.open_personal_data(record["personal_data"]).sender.name == "Ann Marchetti"
    assert "card" not in record["destination"]["card"]
    assert record["requested_at"] == NOW
    assert "n" in public
    assert "d" not in public


def test_the_key_is_not_asked_for_when_everything_is_encrypted_already() -> None:
    """A sender who encrypts himself needs no key file."""

    def no_key() -> Mapping[str, Any]:
        raise AssertionError("asked for")

    sealed = {"kind": "CARD", "card": {"encrypted_card": "a.b.c.d.e"}}
    record = RequestBuilder(no_key, lambda: NOW).build(document(destination=sealed, personal_data="a.b.c.d.e"))
    assert record["destination"] == sealed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"payout_id": None}, "payout_id: is missing"),
        ({"payout_id": "short"}, "payout_id"),
        ({"payout_id": CARD}, "looks like a card number"),
        ({"originator_id": f"shop {CARD}"}, "originator_id: looks like a card number in clear"),
        ({"metadata": {"note": f"card {CARD}"}}, "looks like a card number in clear"),
        ({"metadata": {CARD: "x"}}, "looks like a card number in clear"),
        ({"correlation_id": CARD}, "correlation_id"),
        ({"amount": {"amount_minor": 0, "currency": "USD"}}, "amount.amount_minor"),
        ({"amount": {"amount_minor": -5, "currency": "USD"}}, "amount.amount_minor"),
        ({"amount": {"amount_minor": 12.5, "currency": "USD"}}, "amount.amount_minor"),
        ({"amount": {"amount_minor": True, "currency": "USD"}}, "amount.amount_minor"),
        ({"amount": {"amount_minor": 2**63, "currency": "USD"}}, "amount.amount_minor"),
        ({"amount": {"amount_minor": 5, "currency": CARD}}, "amount.currency"),
        ({"amount": 5}, "amount"),
        ({"requested_at": "2026-11-22 17:00:00"}, "requested_at: has no time zone"),
        ({"requested_at": CARD}, "requested_at"),
        ({"requested_at": 1763830800}, "requested_at: must be a time"),
        ({"expires_at": "tomorrow"}, "expires_at: is no ISO 8601 time"),
        ({"funding": {"kind": "LOAN"}}, "funding.kind: must be one of"),
        ({"funding": {"kind": "UNSPECIFIED"}}, "funding.kind"),
        ({"funding": {"kind": "PIS"}}, "funding.pis: is missing"),
        ({"funding": None}, "funding"),
        ({"destination": {"kind": "WALLET", "card": {"token_reference": "t"}}}, "destination.wallet: is missing"),
        (
            {"destination": {"kind": "CARD", "card": {"token_reference": "t"}, "wallet": {"encrypted_wallet": "w"}}},
            "destination.wallet: does not belong",
        ),
        (
            {"destination": {"kind": "CARD", "card": {"card": {"primary_account_number": "41"}}}},
            "destination.card.card: primary_account_number fails the rule 'pattern'",
        ),
        ({"destination": {"kind": "CARD", "card": {"card": CARD}}}, "destination.card.card"),
        ({"destination": {"kind": "CARD", "card": {"card": {}, "encrypted_card": "x"}}}, "give one of them"),
        ({"personal_data": {"sender": {"name": "A"}}}, "personal_data: it fails the rule 'required'"),
        ({"personal_data": {"sender": {"name": "A\u0000"}, "recipient": {"name": "B"}}}, "control"),
        ({"personal_data": "Ann Marchetti"}, "personal_data: is not encrypted"),
        ({"destination": {"kind": "CARD", "card": {"encrypted_card": "a.b.c.d.e"}}}, "is not encrypted"),
        ({"destination": {"kind": "ACCOUNT", "account": {"encrypted_account": "DE1"}}}, "is not encrypted"),
        ({"surprise": 1}, "does not know: surprise"),
        ({CARD: 1}, "its name is not printed"),
        ({"purpose": ["x"]}, "purpose"),
        ({"purpose": "\ud800"}, "purpose"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_the_place_and_without_the_value(
    chosen: Settings, changes: dict[str, Any], expected: str
) -> None:
    """Issue: refuses a bad line with its number and reason; P6: never quoting a card number."""
    problem = refusal(chosen, **changes)
    assert expected in problem
    assert CARD not in problem


@pytest.mark.parametrize(
    "text",
    [
        "not json", "[]", "null", '"text"', "{", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}',
        '{"a": ' + "9" * 5000 + "}", "[" * 100_000, '{"a":' * 100_000,
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(chosen: Settings, text: str) -> None:
    """Bad input ends as a message with a line number, never as a traceback."""
    batch = prepared(text, chosen)
    assert [line.number for line in batch.refused] == [1]


def test_lines_are_numbered_as_editors_do(chosen: Settings) -> None:
    """Blank lines count and hold nothing; a byte order mark and CRLF are no error."""
    good = json.dumps(document())
    text = b"\xef\xbb\xbf" + f"{good}\r\n\r\nbad\n{good}".encode() + b"\n\xff\xfe\n"
    batch = prepared(text, chosen)
    assert [item.line for item in batch.prepared] == [1, 4]
    assert [(line.number, line.problem) for line in batch.refused][1] == (5, "the line is not UTF-8")
    assert batch.refused[0].number == 3


def test_a_line_over_the_limit_is_refused_and_the_next_is_read(chosen: Settings) -> None:
    """Every body has its limit: a line is bounded, and the rest of the file is still read."""
    long = json.dumps(document(purpose="x" * LINE_BYTES_MAX))
    batch = prepared(f"{long}\n{json.dumps(document())}\n", chosen)
    assert [line.number for line in batch.refused] == [1]
    assert [item.line for item in batch.prepared] == [2]


def test_a_file_of_too_many_lines_is_refused_as_a_whole(chosen: Settings) -> None:
    """Bounded line count."""
    lines = json_lines(io.BytesIO(b"bad\n" * 6))
    with pytest.raises(CommandFailed, match="more than 5 lines"):
        prepare(lines, chosen, None, max_lines=5)


FLAT = {
    "payout_id": "order-2026-0002",
    "originator_id": "shop-1",
    "amount_minor": "1250",
    "currency": "USD",
    "source_country": "US",
    "target_country": "US",
    "source_currency": "USD",
    "target_currency": "USD",
    "funding_kind": "INTERNAL",
    "internal_debit_confirmed": "yes",
    "internal_confirmation_ref": "ref-1",
    "destination_kind": "CARD",
    "card_number": CARD,
    "card_expiry": "2030-01",
    "sender_name": "Marchetti, Ann",
    "sender_address_country": "US",
    "recipient_name": "Bob Okonkwo",
    "metadata_batch": "7",
    "expires_at": "",
}


def csv_text(*rows: dict[str, str]) -> str:
    """A CSV file with the headings of the first row."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def test_csv_and_json_say_the_same(chosen: Settings) -> None:
    """The flat columns fill the same document."""
    (line,) = csv_lines(io.BytesIO(csv_text(FLAT).encode()))
    assert line.document is not None
    assert line.document["amount"] == {"amount_minor": 1250, "currency": "USD"}
    assert line.document["funding"]["internal"] == {"debit_confirmed": True, "confirmation_ref": "ref-1"}
    assert line.document["personal_data"]["sender"] == {"name": "Marchetti, Ann", "address": {"country": "US"}}
    assert line.document["metadata"] == {"batch": "7"}
    assert "expires_at" not in line.document
    batch = prepared(csv_text(FLAT), chosen, csv_lines)
    assert [item.payout_id for item in batch.prepared] == ["order-2026-0002"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"amount_minor": "12.50"}, "amount_minor: must be a whole number"),
        ({"amount_minor": CARD * 2}, "amount_minor: must be a whole number"),
        ({"internal_debit_confirmed": "perhaps"}, "internal_debit_confirmed: must be true or false"),
        ({"metadata_batch": CARD}, "looks like a card number"),
        ({"originator_id": CARD}, "looks like a card number"),
    ],
)
def test_a_bad_cell_is_refused_without_its_value(chosen: Settings, changes: dict[str, str], expected: str) -> None:
    """P6 for CSV."""
    batch = prepared(csv_text(FLAT, FLAT | changes), chosen, csv_lines)
    assert [item.line for item in batch.prepared] == [2]
    (line,) = batch.refused
    assert line.number == 3
    assert expected in (line.problem or "")
    assert CARD not in (line.problem or "")


def test_a_row_that_is_not_like_its_headings_is_refused(chosen: Settings) -> None:
    """Too few cells, too many, and a quotation mark that would swallow the lines after it."""
    head, row = csv_text(FLAT).splitlines()
    batch = prepared("\n".join([head, row + ",extra", "one,two", '"open' + row, row]), chosen, csv_lines)
    assert [line.number for line in batch.refused] == [2, 3, 4]
    assert [item.line for item in batch.prepared] == [5]


@pytest.mark.parametrize("head", ["payout_id,surprise", f"payout_id,{CARD}", "payout_id,payout_id", '"payout_id'])
def test_headings_that_are_not_known_stop_the_file(head: str) -> None:
    """A column that nobody reads may be the one that mattered."""
    with pytest.raises(BadLine) as caught:
        list(csv_lines(io.BytesIO(head.encode())))
    assert CARD not in str(caught.value)


def test_every_csv_column_has_a_place_of_its_own() -> None:
    """No column overwrites another."""
    paths = [column.path for column in CSV_COLUMNS.values()]
    assert len(set(paths)) == len(paths)


def test_clear_and_encrypted_personal_data_in_one_row_contradict_each_other(chosen: Settings) -> None:
    """What counts would be a guess."""
    for names in (("personal_data", *FLAT), (*FLAT, "personal_data")):
        row = {name: FLAT.get(name, "a.b.c.d.e") for name in names}
        (line,) = prepared(csv_text(row), chosen, csv_lines).refused
        assert "give one of them" in (line.problem or "")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": []}', b"no key", b'{"keys": [{"kty": "oct", "k": "AA"}]}'])
def test_a_file_that_holds_no_public_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """The message names the file and never shows what is in it."""
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(CommandFailed, match="holds no usable RSA public key"):
        read_party_key(path)
    with pytest.raises(CommandFailed, match="cannot be read"):
        read_party_key(tmp_path / "absent.json")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just(CARD)
    | st.just({"card": CARD}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        ("payout_id",), ("originator_id",), ("amount",), ("amount", "amount_minor"), ("amount", "currency"),
        ("corridor",), ("corridor", "source_country"), ("funding",), ("funding", "kind"), ("funding", "internal"),
        ("funding", "aft"),
        ("destination",), ("destination", "card"), ("destination", "card", "card"), ("personal_data",),
        ("personal_data", "sender"), ("personal_data", "sender", "name"), ("fx_quote",), ("requested_at",),
        ("expires_at",), ("metadata",), ("purpose",), ("unknown",),
    ]
)  # fmt: skip


def changed(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """The good document with one value replaced."""
    whole: dict[str, Any] = json.loads(json.dumps(document()))
    part = whole
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return whole


@given(path=PATHS, value=JSON_VALUES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_ends_as_a_request_or_a_refusal_without_the_card(
    chosen: Settings, path: tuple[str, ...], value: object
) -> None:
    """P6, P8: no line raises, no refusal shows a card number, no accepted request holds one in clear."""
    batch = prepared(json.dumps(changed(path, value)), chosen)
    assert batch.lines == 1
    for line in batch.refused:
        assert CARD not in (line.problem or "")
    for item in batch.prepared:
        assert CARD.encode() not in item.value


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_without_an_error(chosen: Settings, content: bytes) -> None:
    """Bytes of any kind are bad lines, not failures."""
    assert prepared(content, chosen).prepared == []
    with suppress(BadLine):  # headings that are not known; anything else would be an error of ours
        list(csv_lines(io.BytesIO(content)))


@pytest.mark.parametrize("minor", [int(CARD), 10**12, 2**63 - 1])
def test_a_card_number_in_the_amounts_column_is_refused(chosen: Settings, minor: int) -> None:
    """P6: columns shift; what Visa could not express anyway must not travel in clear as an amount."""
    for changes in (
        {"amount": {"amount_minor": minor, "currency": "USD"}},
        {"funding": {"kind": "AFT", "aft": {"amount": {"amount_minor": minor, "currency": "USD"}}}},
    ):
        problem = refusal(chosen, **changes)
        assert "amount" in problem
        assert str(minor) not in problem


def test_a_record_that_the_codec_took_is_still_searched_for_cards() -> None:
    """The last check before anything leaves works on the record itself."""
    record = document(requested_at=NOW, correlation_id="c", personal_data=None, purpose=f"for {CARD}")
    record["destination"] = {"kind": "CARD", "card": {"token_reference": "t"}}
    with pytest.raises(BadLine, match="purpose"):
        check_nothing_in_clear(record)
