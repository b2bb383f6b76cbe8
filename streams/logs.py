"""One JSON object a line, with correlation ids, and no personal data at any level (promise P6).

What a line shows beside its message are the names of `LOGGED_NAMES` and no others: `extra=` with another name is
dropped and counted. Messages, values and the texts of exceptions are masked by pattern (`processors.pii.redaction`,
through which spans go as well). An exception that nobody caught goes the same way, in every thread.
"""

import copy
import json
import logging
import sys
import threading
import traceback
from collections import Counter
from collections.abc import MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import structlog

from processors.pii.hits import ALL_KINDS
from processors.pii.redaction import CARDS_ONLY, TEXT_CHARACTERS_MAX, mask, redact_fields, redact_text
from streams.tracing import current_span

SERVICE_NAME: Final = "payout-streams"
LOGGED_NAMES: Final = frozenset(
    {
        "action",
        "agent",
        "agents",
        "at",
        "attempt",
        "away",
        "because",
        "breaker",
        "by_hand",
        "call",
        "calls_max",
        "compensation",
        "complete",
        "correlation_id",
        "error",
        "from",
        "http_status",
        "key_id",
        "lane",
        "mode",
        "of_thread",
        "offset",
        "offsets",
        "order",
        "outcome",
        "partition",
        "partitions",
        "payout_id",
        "profile",
        "published",
        "reason",
        "reason_code",
        "record",
        "records",
        "refusal",
        "request_id",
        "rows",
        "sealed",
        "seconds",
        "source",
        "stack",
        "state",
        "task",
        "tasks",
        "to",
        "topic",
        "transition",
        "unconfirmed",
        "url",
        "verdict",
        "version",
        "visa_correlation_id",
        "why",
    }
)
"""What `extra=` may say. A test compares it with the code: a new name is added here when it can hold no person."""
WITHHELD: Final[Counter[str]] = Counter()
"""What this process did not show, by kind; written under the handler's lock, read by the metric."""
ERROR_CHARACTERS_MAX: Final = 300

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OWN: Final = _STANDARD | {"event", "level"}


class JsonFormatter(logging.Formatter):
    """Fields in the Elastic common names; everything passes the redaction."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "log.level": record.levelname.lower(),
            "log.logger": record.name,
            "message": _clean(record.getMessage()),
            "service.name": SERVICE_NAME,
            "service.node.name": self._worker,
        }
        entry |= _place_in_trace()
        entry |= _shown(record.__dict__)
        if record.exc_info and record.exc_info[1] is not None:
            entry |= _error(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(worker: str, level: str, form: str) -> None:
    """Send every logger, libraries included, and every exception that nobody caught through one handler on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if form == "json" else MaskedConsole())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiokafka", "faust", "mode", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # logging's own report of a broken call prints its arguments, unmasked
    # Python's own report of an exception prints its text, unmasked.
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda raised: _log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)
    sys.unraisablehook = lambda raised: _log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return  # a way to end, and no fault
    known = None if error is None else (kind, error, trace)
    logging.getLogger(__name__).critical("an exception that nobody caught: %s", kind.__name__, exc_info=known)


class MaskedConsole(logging.Formatter):
    """For people. Values are masked before they get colours; of an exception it says no more than the JSON form."""

    def __init__(self) -> None:
        super().__init__()
        self._renderer = _console()

    def format(self, record: logging.LogRecord) -> str:
        """One entry."""
        shown = copy.copy(record)
        shown.exc_info = shown.exc_text = shown.stack_info = None
        text = self._renderer.format(shown)
        if record.exc_info and record.exc_info[1] is not None:
            error = _error(record.exc_info[1])
            text += f"\n{error['error.type']}: {error['error.message']}\n  " + "\n  ".join(error["error.stack"])
        return redact_text(text, CARDS_ONLY, longest_characters=None)


def _console() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            _redact_event,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The console's part: what stands in an entry before the time and the colours are added to it."""
    own = {name: event[name] for name in ("level", "_record", "_from_structlog") if name in event}
    return own | {"event": _clean(str(event.get("event", "")))} | _place_in_trace() | _shown(event)


def _place_in_trace() -> dict[str, str]:
    """The span that is open where the line was written; nothing where none is recorded. Ids, and never digits alone."""
    place = current_span().context
    return {} if place is None else {"trace.id": place.trace_id, "span.id": place.span_id}


def _clean(text: str, longest_characters: int = TEXT_CHARACTERS_MAX) -> str:
    shown, kinds = mask(text, ALL_KINDS, longest_characters)
    WITHHELD.update(kinds)
    return shown


def _shown(fields: MutableMapping[str, Any]) -> dict[str, object]:
    """What an entry shows beside its message."""
    said = {name: value for name, value in fields.items() if name not in _OWN and not name.startswith("_")}
    shown = redact_fields(said, LOGGED_NAMES)
    WITHHELD.update(shown.withheld)
    return shown.fields


def _error(error: BaseException) -> dict[str, Any]:
    """Where it happened and what class it was. Texts of foreign errors may quote data: masked, and cut."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {
        "error.type": type(error).__name__,
        "error.message": _clean(str(error), ERROR_CHARACTERS_MAX),
        "error.stack": [f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno} {frame.name}" for frame in frames],
    }
