"""One JSON object a line, with correlation ids, and no card number at any level (promise P6)."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from schemas.card_numbers import mask_card_numbers

SERVICE_NAME: Final = "payout-streams"
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
TEXT_MAX: Final = 2000
"""Characters of one value: a log line is evidence, not an archive."""


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
                entry[name] = value if isinstance(value, bool | int | float) else _clean(str(value))
        if record.exc_info and record.exc_info[1] is not None:
            entry |= _error(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(worker: str, level: str, form: str) -> None:
    """Send every logger, libraries included, through one handler on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if form == "json" else _console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiokafka", "faust", "mode", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.captureWarnings(True)


def _console() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=True),
            _masked,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )


def _masked(_: Any, __: str, event: Any) -> Any:
    return {name: _clean(value) if isinstance(value, str) else value for name, value in event.items()}


def _clean(text: str) -> str:
    return mask_card_numbers(text[:TEXT_MAX])


def _error(error: BaseException) -> dict[str, Any]:
    """Where it happened and what class it was. Messages of foreign errors may quote data: masked, and cut."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    return {
        "error.type": type(error).__name__,
        "error.message": _clean(str(error)[:300]),
        "error.stack": [f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno} {frame.name}" for frame in frames],
    }
