"""`payouts send FILE|-`: payout requests from lines of JSON or CSV to the request topic."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from confluent_kafka import Message
from ulid import ULID

from ops.application import ending
from ops.environment import KAFKA, codec_for, settings_for
from ops.exit_codes import ExitCode
from ops.failures import CommandFailed, usage_error
from ops.kafka import ConfirmedProducer, connect_admin, not_confirmed, our_topics
from ops.options import OutputOption
from ops.output import Output, emit_object, iso_time, message, progress
from ops.payout_lines import (
    CSV_COLUMNS,
    BadLine,
    Document,
    Line,
    RequestBuilder,
    check_nothing_in_clear,
    csv_lines,
    json_lines,
)
from processors.sealing import SealingKeyInvalid, load_public_key
from schemas.codec import BlockingCodec, Unencodable
from schemas.headers import event_headers, event_type
from schemas.topics import topic_name
from streams.settings import Settings

TOPIC: Final = "payout_requests"
SCHEMA: Final = "PayoutRequest"
EVENT_SOURCE: Final = "/payouts/send"
LINES_MAX: Final = 100_000
# Everything is prepared before anything is sent, so all of it is in memory once.
PREPARED_BYTES_MAX: Final = 512 * 1024 * 1024
# A key file of a few kilobytes; more is another file.
KEY_FILE_BYTES_MAX: Final = 256 * 1024
ERRORS_SHOWN_MAX: Final = 100


class Format(StrEnum):
    """What the lines are."""

    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, checked and encoded."""

    line: int
    payout_id: str
    correlation_id: str
    value: bytes = field(repr=False)
    at: datetime


@dataclass(slots=True)
class Batch:
    """What a file holds: requests that can be sent, and lines that cannot."""

    prepared: list[Prepared] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """Lines that are not blank."""
        return len(self.prepared) + len(self.refused)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "send",
        epilog=ending(
            "payouts send payouts.jsonl --journal sent.jsonl",
            "payouts send payouts.csv --partial",
            "payouts send - --format csv --party-key party_public.jwks.json < payouts.csv",
            "payouts send payouts.jsonl --dry-run",
            codes=(ExitCode.FOUND, ExitCode.REFUSED, ExitCode.PARTIAL, ExitCode.UNREACHABLE),
        )
        + "\n\n\b\n"
        + _columns_help(),
    )(send)


def send(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="Lines of requests; - reads standard input.")],
    line_format: Annotated[
        Format | None, typer.Option("--format", help="What the lines are; by the file's ending when not given.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Send the good lines even if others are bad.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, send nothing.")] = False,
    party_key: Annotated[
        Path | None,
        typer.Option(help="The processor's public key (JWK set, JWK or PEM); by default that of the keys directory."),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Append what the brokers acknowledged, one JSON object a line.")
    ] = None,
    max_lines: Annotated[int, typer.Option(min=1, max=10 * LINES_MAX, help="Refuse a longer file.")] = LINES_MAX,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send payout requests and wait until the brokers have every one of them.

    JSON: one object a line with the fields of PayoutRequest; times are ISO 8601 text. In place of encrypted text a
    line may say in clear "personal_data": {"sender": {…}, "recipient": {…}}, "destination": {"card": {"card":
    {"primary_account_number": …, "expiry": …}}} and the same "card" in funding.aft: it is encrypted to the
    processor's public key before anything leaves. requested_at is now and correlation_id a new ULID when absent.

    Every line is checked first; one bad line, and nothing is sent (unless --partial).
    """
    settings = settings_for(KAFKA)
    batch = prepare(_lines(source, line_format), settings, party_key, max_lines=max_lines)
    _report_refused(batch, source)
    sending = batch.prepared if partial or not batch.refused else []
    acknowledged = 0
    if sending and not dry_run:
        acknowledged = _send_all(settings, sending, journal)
    summary = _summary(batch, acknowledged)
    if output is Output.TABLE:
        # Every error stands on stderr already.
        del summary["errors"]
    emit_object(summary, output)
    _end(batch, sending, partial=partial, dry_run=dry_run)


def prepare(lines: Iterator[Line], settings: Settings, party_key: Path | None, *, max_lines: int = LINES_MAX) -> Batch:
    """Check, encrypt and encode every line. Raises CommandFailed when the whole cannot be worked on."""
    batch = Batch()
    builder = RequestBuilder(_PartyKey(settings, party_key), lambda: datetime.now(UTC))
    size = 0
    with codec_for(settings) as codec:
        for line in lines:
            if batch.lines >= max_lines:
                raise usage_error(
                    f"there are more than {max_lines} lines", next_step="split the file, or raise --max-lines"
                )
            try:
                prepared = _prepared(line, builder, codec)
            except BadLine as bad:
                batch.refused.append(Line(line.number, problem=str(bad)))
                continue
            size += len(prepared.value)
            if size > PREPARED_BYTES_MAX:
                raise usage_error(
                    f"the requests are larger than {PREPARED_BYTES_MAX} bytes together", next_step="split the file"
                )
            batch.prepared.append(prepared)
    return batch


def _prepared(line: Line, builder: RequestBuilder, codec: BlockingCodec) -> Prepared:
    if line.document is None:
        raise BadLine("", line.problem or "is empty")
    record: Document = builder.build(line.document)
    try:
        value = codec.encode(SCHEMA, record)
    except Unencodable as error:
        raise BadLine("", str(error)) from None
    check_nothing_in_clear(record)
    return Prepared(line.number, record["payout_id"], record["correlation_id"], value, record["requested_at"])


class _PartyKey:
    """Reads the public key when it is first needed."""

    def __init__(self, settings: Settings, path: Path | None) -> None:
        self._path = path or settings.payouts_keys_directory / "party_public.jwks.json"
        self._key: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        if self._key is None:
            self._key = read_party_key(self._path)
        return self._key


def read_party_key(path: Path) -> dict[str, Any]:
    """The newest public key of a file: a JWK set (the last one), a JWK or PEM. Raises CommandFailed."""
    next_step = "give the processor's public key with --party-key, or make keys with `payouts keys create DIR`"
    try:
        with path.open("rb") as file:
            content = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise usage_error(
            f"the processor's public key {path} cannot be read", why=error.strerror or "", next_step=next_step
        ) from None
    try:
        source: Any = content
        if content.lstrip().startswith(b"{"):
            source = json.loads(content)
            source = source["keys"][-1] if "keys" in source else source
        public: dict[str, Any] = load_public_key(source).export_public(as_dict=True)
    except (SealingKeyInvalid, ValueError, TypeError, LookupError):
        raise usage_error(f"{path} holds no usable RSA public key", next_step=next_step) from None
    return public


def _lines(source: str, line_format: Format | None) -> Iterator[Line]:
    if source == "-":
        reader = csv_lines if line_format is Format.CSV else json_lines
        yield from _understood(reader(sys.stdin.buffer))
        return
    path = Path(source)
    chosen = line_format or _format_of(path)
    try:
        with path.open("rb") as file:
            yield from _understood((csv_lines if chosen is Format.CSV else json_lines)(file))
    except OSError as error:
        raise usage_error(f"{source} cannot be read", why=error.strerror or type(error).__name__) from None


def _understood(lines: Iterator[Line]) -> Iterator[Line]:
    try:
        yield from lines
    except BadLine as bad:
        raise usage_error(f"the file cannot be understood: {bad}") from None


def _format_of(path: Path) -> Format:
    endings = {".jsonl": Format.JSON, ".ndjson": Format.JSON, ".json": Format.JSON, ".csv": Format.CSV}
    if path.suffix.lower() not in endings:
        raise usage_error(f"the ending of {path.name} says neither JSON nor CSV", next_step="give --format json or csv")
    return endings[path.suffix.lower()]


def _report_refused(batch: Batch, source: str) -> None:
    for line in batch.refused[:ERRORS_SHOWN_MAX]:
        message(f"{source}:{line.number}: {line.problem}")
    if len(batch.refused) > ERRORS_SHOWN_MAX:
        message(f"… and {len(batch.refused) - ERRORS_SHOWN_MAX} more bad lines")
    repeated = sum(1 for count in Counter(item.payout_id for item in batch.prepared).values() if count > 1)
    if repeated:
        message(f"note: {repeated} payout_id(s) occur more than once; each is paid at most once")


def _send_all(settings: Settings, sending: Sequence[Prepared], journal: Path | None) -> int:
    """Send, wait, and return how many were acknowledged. Raises CommandFailed when not all were."""
    topic = topic_name(TOPIC, settings.payouts_topic_prefix)
    with _opened_journal(journal) as book:
        our_topics(connect_admin(settings), settings, [TOPIC])
        producer = ConfirmedProducer(settings)
        with progress("sending", len(sending)) as step:

            def acknowledged(record: Message) -> None:
                step()
                if book is not None:
                    book.write(record)

            try:
                for item in sending:
                    producer.send(topic, item.payout_id, item.value, _headers(item), acknowledged)
                producer.finish()
            except KeyboardInterrupt:
                message(f"interrupted: {producer.acknowledged} of {len(sending)} requests are acknowledged")
                raise
    _check_all_confirmed(producer, len(sending), book)
    return producer.acknowledged


def _headers(item: Prepared) -> list[tuple[str, bytes]]:
    identifier = str(ULID())
    return event_headers(event_type(SCHEMA), EVENT_SOURCE, item.at, item.correlation_id, event_id=identifier)


def _check_all_confirmed(producer: ConfirmedProducer, total: int, book: "Journal | None") -> None:
    if producer.acknowledged == total and (book is None or not book.failed):
        return
    if book is not None and book.failed:
        raise CommandFailed(
            ExitCode.PARTIAL,
            "the journal could not be written completely",
            why=f"{producer.acknowledged} of {total} requests were acknowledged",
            next_step="make room, and compare with `payouts show`",
        )
    if producer.acknowledged == 0:
        raise not_confirmed(producer.reason)
    raise CommandFailed(
        ExitCode.PARTIAL,
        f"{producer.acknowledged} of {total} requests were acknowledged; of the others it is not known",
        why=producer.reason,
        next_step="send the same file again: a payout_id with the same content is answered, never paid twice",
    )


class Journal:
    """The producer's own record of what the brokers acknowledged."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.failed = False

    def write(self, record: Message) -> None:
        """One line: payout_id, where it is, the SHA-256 of its bytes, and when we knew."""
        value, key = record.value() or b"", record.key() or b""
        line = {
            "payout_id": key.decode() if isinstance(key, bytes) else str(key),
            "topic": record.topic(),
            "partition": record.partition(),
            "offset": record.offset(),
            "sha256": hashlib.sha256(value).hexdigest(),
            "at": iso_time(datetime.now(UTC)),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError:
            self.failed = True

    def close(self) -> None:
        """To the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError:
            self.failed = True


@contextmanager
def _journal_at(path: Path) -> Iterator[Journal]:
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise usage_error(f"the journal {path} cannot be written", why=error.strerror or "") from None
    with file:
        book = Journal(file)
        try:
            yield book
        finally:
            book.close()


def _opened_journal(path: Path | None) -> "AbstractContextManager[Journal | None]":
    return nullcontext(None) if path is None else _journal_at(path)


def _summary(batch: Batch, acknowledged: int) -> dict[str, Any]:
    return {
        "lines": batch.lines,
        "good": len(batch.prepared),
        "refused": len(batch.refused),
        "acknowledged": acknowledged,
        "not_sent": len(batch.prepared) - acknowledged,
        "errors": [{"line": line.number, "reason": line.problem} for line in batch.refused[:ERRORS_SHOWN_MAX]],
    }


def _end(batch: Batch, sending: Sequence[Prepared], *, partial: bool, dry_run: bool) -> None:
    if not batch.refused:
        return
    if dry_run:
        raise typer.Exit(ExitCode.FOUND)
    if partial and sending:
        raise typer.Exit(ExitCode.PARTIAL)
    message("Nothing was sent: correct the lines, or send the good ones with --partial.")
    raise typer.Exit(ExitCode.USAGE)


def _columns_help() -> str:
    names = [*CSV_COLUMNS, "metadata_NAME"]
    rows = [", ".join(names[start : start + 4]) for start in range(0, len(names), 4)]
    return "CSV headings (any order; an empty cell is an absent field):\n" + "\n".join(f"  {row}" for row in rows)
