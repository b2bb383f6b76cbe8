"""P6: no card number and no local variable in a log line, in any form and at any level; one JSON object a line."""

import ast
import io
import json
import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processors.pii.hits import Kind
from processors.pii.redaction import TEXT_CHARACTERS_MAX as TEXT_MAX
from streams.logs import LOGGED_NAMES, WITHHELD, JsonFormatter, configure_logs
from streams.metrics import Metrics

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
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield Lines(monkeypatch)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
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
    shown = formatted("it %s", "works", payout_id="payout-0001", attempt=3, seconds=0.5, complete=True, state=None)
    assert shown["message"] == "it works"
    assert shown["log.level"] == "info"
    assert shown["log.logger"] == "streams.test"
    assert shown["service.name"] == "payout-streams"
    assert shown["service.node.name"] == "worker-1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(shown["@timestamp"]))
    assert (shown["payout_id"], shown["attempt"], shown["seconds"]) == ("payout-0001", 3, 0.5)
    assert shown["complete"] is True
    assert "state" not in shown


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_card_numbers_are_masked_at_every_level(lines: Lines, level: int, form: str) -> None:
    """P6: in the text, its arguments and the extras."""
    lines.configure("DEBUG", form)
    logger = logging.getLogger("streams.test")
    logger.log(level, f"in the text {CARD}")
    logger.log(level, "as an argument %s", "4957 0304 2021 0462")
    logger.log(level, "in a list %s", [CARD])
    logger.log(level, "as an extra", extra={"why": f"card {CARD}", "because": {"card": [CARD]}})
    written = lines.getvalue()
    assert len(written.splitlines()) >= 4
    assert CARD not in written
    assert "4957 0304 2021 0462" not in written


@pytest.mark.parametrize("value", [int(CARD), float(CARD), [int(CARD)], CARD.encode(), ValueError(CARD)], ids=repr)
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_card_number_of_any_type_is_masked(lines: Lines, form: str, value: object) -> None:
    """P6: a number of 16 digits is no less a card number for not being a string."""
    lines.configure("DEBUG", form)
    logging.getLogger("streams.test").info("as a number", extra={"why": value})
    assert "[card number]" in lines.getvalue()
    assert CARD not in lines.getvalue()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_name_that_is_not_allowed_is_dropped_and_counted(lines: Lines, form: str, level: int) -> None:
    """S1-11, S1-12: whatever it holds, a name and a street look like nothing; and whoever passes it, a library too."""
    lines.configure("DEBUG", form)
    before = Counter(WITHHELD)
    for logger in ("streams.test", "aiokafka"):
        values = {"recipient": "Tomas Okafor", "document": {"name": "Tomas Okafor"}, "why": "mail tomas@example.com"}
        logging.getLogger(logger).log(level, "sent to tomas@example.com, cvv 123", extra=values)
    shown = sum(logging.getLogger(logger).isEnabledFor(level) for logger in ("streams.test", "aiokafka"))
    assert WITHHELD - before == Counter({"NAME": 2 * shown, "EMAIL": 2 * shown, "CVV": shown})
    assert "sent to" in lines.getvalue()
    for secret in ("Tomas", "Okafor", "tomas", "recipient", "document", "123"):
        assert secret not in lines.getvalue()


def test_what_was_withheld_is_a_metric() -> None:
    """S1-12, S1-20: every kind is there from the start, so that its rise can be seen."""
    before = _withheld()
    assert set(before) == {"NAME", *Kind}
    formatted(f"card {CARD}", recipient="Tomas Okafor", why=f"{CARD} of user@example.com")
    after = _withheld()
    assert {kind: after[kind] - count for kind, count in before.items() if after[kind] > count} == {
        "NAME": 1.0, "CARD": 2.0, "EMAIL": 1.0,
    }  # fmt: skip


def _withheld() -> dict[str, float]:
    (family,) = [family for family in Metrics().registry.collect() if family.name == "pii_redactions"]
    return {sample.labels["kind"]: sample.value for sample in family.samples}


def _names_logged(tree: ast.Module) -> Iterator[str]:
    """What the `extra=` of a module says: the keys of the dictionaries in it, or in what the names in it stand for."""
    made = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).partition(".")[0] not in ("log", "logger"):
            continue
        for extra in (keyword.value for keyword in node.keywords if keyword.arg == "extra"):
            named = {name.id for name in ast.walk(extra) if isinstance(name, ast.Name)}
            parts: list[ast.AST] = [extra, *(made[name] for name in named if name in made)]
            for assigned in ast.walk(tree):
                if isinstance(assigned, ast.Assign | ast.AnnAssign):
                    targets = assigned.targets if isinstance(assigned, ast.Assign) else [assigned.target]
                    if any(isinstance(target, ast.Name) and target.id in named for target in targets):
                        parts += [assigned.value] if isinstance(assigned.value, ast.Dict) else []
            keys = [
                key for part in parts for found in ast.walk(part) if isinstance(found, ast.Dict) for key in found.keys
            ]
            assert keys, f"line {node.lineno}: what this logs cannot be read from the code"
            yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def test_the_allow_list_is_what_the_code_logs() -> None:
    """S1-12: add a new name to LOGGED_NAMES if it can hold no person's data; until then it is dropped."""
    root = Path(__file__).parents[3]
    logged = {
        name
        for room in ("schemas", "processors", "ledger", "streams", "ops")
        for file in (root / room).rglob("*.py")
        for name in _names_logged(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert logged == LOGGED_NAMES


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_number_between_colours_is_masked(monkeypatch: pytest.MonkeyPatch, lines: Lines, form: str) -> None:
    """P6: a terminal's colour ends in a letter, next to which a number would not stand alone."""
    monkeypatch.setattr(lines, "isatty", lambda: True, raising=False)
    lines.configure("DEBUG", form)
    logging.getLogger("streams.test").info("\x1b[1m%s\x1b[0m", CARD, extra={"why": CARD})
    written = lines.getvalue()
    assert ("\x1b[" in written) == (form == "console")
    assert CARD not in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_that_nobody_caught_is_masked(lines: Lines, form: str) -> None:
    """P6: Python's own report, of a thread, of a finalizer and at the end of the process, prints the text as it is."""
    lines.configure("INFO", form)

    def fail() -> None:
        raise ValueError(f"card {CARD}")

    class Fails:
        def __del__(self) -> None:
            fail()

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Fails()
    try:
        fail()
    except ValueError:
        kind, error, trace = sys.exc_info()
        assert kind is not None
        assert error is not None
        sys.excepthook(kind, error, trace)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(CARD), None)
    assert lines.getvalue().count("nobody caught") == 3
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
    shown = formatted("cut", level=logging.ERROR, why=text)
    assert re.findall(r"[0-9]{7,}", str(shown["why"])) == []


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
