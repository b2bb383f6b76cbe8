"""P6: no card number and no local variable in a log line, in any form and at any level; one JSON object a line."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from streams.logs import TEXT_MAX, JsonFormatter, configure_logs

CARD = "4957030420210462"
LEVELS = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]


class Lines(io.StringIO):
    """What the process would write to stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._monkeypatch = monkeypatch

    def configure(self, level: str, form: str) -> None:
        """As the worker at its start; from here on stderr is this."""
        self._monkeypatch.setattr(sys, "stderr", self)
        configure_logs("worker-1", level, form)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Logging is put back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    libraries = ("aiokafka", "faust", "mode", "httpx", "httpcore", "asyncio")
    levels = {name: logging.getLogger(name).level for name in libraries}
    raising = logging.raiseExceptions
    yield Lines(monkeypatch)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)
    logging.raiseExceptions = raising


def formatted(message: str, *arguments: object, level: int = logging.INFO, **extra: object) -> dict[str, object]:
    record = logging.getLogger("streams.test").makeRecord(
        "streams.test", level, __file__, 1, message, arguments, None, extra=extra
    )
    shown: dict[str, object] = json.loads(JsonFormatter("worker-1").format(record))
    return shown


def failed(error: Exception) -> dict[str, Any]:
    """The line of an exception that was raised here."""

    def fail() -> None:
        raise error

    try:
        fail()
    except type(error):
        record = logging.getLogger("t").makeRecord("t", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    shown: dict[str, Any] = json.loads(JsonFormatter("w").format(record))
    return shown


def test_the_shape_of_a_line() -> None:
    """One object with the common names, the extras beside them."""
    shown = formatted("it %s", "works", payout_id="payout-0001", count=3, ratio=0.5, flag=True, nothing=None)
    assert shown["message"] == "it works"
    assert shown["log.level"] == "info"
    assert shown["log.logger"] == "streams.test"
    assert shown["service.name"] == "payout-streams"
    assert shown["service.node.name"] == "worker-1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(shown["@timestamp"]))
    assert (shown["payout_id"], shown["count"], shown["ratio"], shown["flag"]) == ("payout-0001", 3, 0.5, True)
    assert "nothing" not in shown


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_card_numbers_are_masked_at_every_level(lines: Lines, level: int, form: str) -> None:
    """P6: in the text, its arguments and the extras."""
    lines.configure("DEBUG", form)
    logger = logging.getLogger("streams.test")
    logger.log(level, f"in the text {CARD}")
    logger.log(level, "as an argument %s", "4957 0304 2021 0462")
    logger.log(level, "in a list %s", [CARD])
    logger.log(level, "as an extra", extra={"what": f"card {CARD}", "nested": {"card": [CARD]}})
    written = lines.getvalue()
    assert len(written.splitlines()) >= 4
    assert CARD not in written
    assert "4957 0304 2021 0462" not in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_card_number_that_is_a_number_is_masked(lines: Lines, form: str) -> None:
    """P6: a number of 16 digits is no less a card number for not being a string."""
    lines.configure("DEBUG", form)
    logging.getLogger("streams.test").info("as a number", extra={"what": int(CARD)})
    assert CARD not in lines.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_exceptions_show_neither_card_numbers_nor_local_variables(lines: Lines, form: str) -> None:
    """P6: the handler that failed held an opened request; no traceback may print what was in its hands."""
    lines.configure("DEBUG", form)

    def handler() -> None:
        recipient_name = "Tomas " + "Okafor"
        raise ValueError(f"{CARD} of {len(recipient_name)} letters")

    try:
        handler()
    except ValueError:
        logging.getLogger("streams.test").exception("handler failed")
    written = lines.getvalue()
    assert "ValueError" in written
    assert CARD not in written
    assert "Tomas Okafor" not in written


def test_an_exception_says_where_and_of_which_class() -> None:
    """The place is needed; the text is masked and cut."""
    shown = failed(KeyError("x" * 1000))
    assert shown["error.type"] == "KeyError"
    assert len(shown["error.message"]) <= 300
    assert "test_streams_logs.py" in shown["error.stack"][-1]


@pytest.mark.parametrize("missing", range(1, 8))
def test_a_card_number_at_the_cut_is_masked_before_it_is_cut(missing: int) -> None:
    """P6: a number that the cut shortens is no longer recognised, so masking comes first."""
    text = "x" * (TEXT_MAX - 16 - 1 + missing) + " " + CARD
    digits = re.findall(r"[0-9]{7,}", str(formatted(text)["message"]))
    assert digits == []
    shown = formatted("cut", level=logging.ERROR, what=text)
    assert re.findall(r"[0-9]{7,}", str(shown["what"])) == []


def test_a_card_number_at_the_cut_of_an_exceptions_text_is_masked() -> None:
    """P6: the same for the text of an exception."""
    shown = failed(ValueError("x" * 286 + " " + CARD))
    assert re.findall(r"[0-9]{7,}", shown["error.message"]) == []


def test_a_long_text_is_cut() -> None:
    """A log line is evidence, not an archive."""
    assert len(str(formatted("y" * 10_000)["message"])) <= TEXT_MAX


def test_a_line_stays_one_line(lines: Lines) -> None:
    """A foreign text cannot forge a second entry."""
    lines.configure("INFO", "json")
    logging.getLogger("streams.test").info('one\n{"message": "forged"}')
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["message"].startswith("one\n")


def test_a_broken_log_call_does_not_print_its_arguments(lines: Lines) -> None:
    """P6: logging's own error report goes round every mask."""
    lines.configure("INFO", "json")
    logging.getLogger("streams.test").info("a number %d", CARD)
    assert CARD not in lines.getvalue()


def test_libraries_are_quiet_and_go_through_the_same_handler(lines: Lines) -> None:
    """P6: libraries log requests at INFO and headers at DEBUG."""
    lines.configure("DEBUG", "json")
    for name in ("httpx", "httpcore", "aiokafka", "faust"):
        logging.getLogger(name).info("GET /visadirect?secret=1")
        logging.getLogger(name).warning("card %s", CARD)
    written = lines.getvalue()
    assert "secret" not in written
    assert CARD not in written
    assert len(written.splitlines()) == 4
