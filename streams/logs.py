"""One JSON object a line, with correlation ids, and no card number at any level (promise P6)."""

import copy
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from schemas.card_numbers import DIGITS_MIN, mask_card_numbers

SERVICE_NAME: Final = "payout-streams"
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
TEXT_MAX: Final = 2000
"""Characters of one value: a log line is evidence, not an archive."""

SCANNED_MAX: Final = 16 * TEXT_MAX
"""Characters that are searched for card numbers; what lies behind is never shown."""


class JsonFormatter(logging.Formatter):
    """Fields in the Elastic common names; everything passes the card-number mask."""

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
        for name, value in record.__dict__.items():
            if name not in _STANDARD and not name.startswith("_") and value is not None:
                entry[name] = value if _is_plain_number(value) else _clean(str(value))
        if record.exc_info and record.exc_info[1] is not None:
            entry |= _error(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(worker: str, level: str, form: str) -> None:
    """Send every logger, libraries included, through one handler on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if form == "json" else MaskedConsole())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiokafka", "faust", "mode", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # logging's own report of a broken call prints its arguments, unmasked


class MaskedConsole(logging.Formatter):
    """For people. What it renders is masked as a whole; of an exception it says no more than the JSON form."""

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
        return mask_card_numbers(text)


def _console() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )


def _is_plain_number(value: object) -> bool:
    return isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10 ** (DIGITS_MIN - 1))


def _clean(text: str, longest: int = TEXT_MAX) -> str:
    """Masked first: a card number that a cut has shortened is no longer recognised."""
    return mask_card_numbers(text[:SCANNED_MAX])[:longest]


def _error(error: BaseException) -> dict[str, Any]:
    """Where it happened and what class it was. Messages of foreign errors may quote data: masked, and cut."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {
        "error.type": type(error).__name__,
        "error.message": _clean(str(error), 300),
        "error.stack": [f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno} {frame.name}" for frame in frames],
    }
