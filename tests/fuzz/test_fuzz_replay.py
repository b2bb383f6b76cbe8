"""Every kept input again, without the fuzzer: the corpus in seconds, and what once showed a fault (P6, P8)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus, frames
from tests.fuzz.catalogue import BY_NAME, TARGETS
from tests.fuzz.harness import Finding, Target, check, execute, watch_logs
from tests.fuzz.targets import pipeline

# Blind inputs and steps of mutation for the cheap tier; `make fuzz` is the real one.
EXAMPLES = 10
STEPS = 3
EACH = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@pytest.fixture(autouse=True)
def watched_logs() -> Iterator[None]:
    """The harness looks at every log line; afterwards pytest has its own handlers again."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    watch_logs()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@EACH
def test_every_seed_and_every_kept_input_is_taken(target: Target) -> None:
    """P6, P8, S5, K6, K7: no exception that is not named, no hang, no card number in a message or log line."""
    for data in target.seeds():
        execute(target, data)
    for path in corpus.kept(target):
        try:
            execute(target, path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{target.name}: {path} shows a fault again") from error


@EACH
def test_every_target_has_a_kept_corpus(target: Target) -> None:
    """A corpus that was lost would make the test above vacuous."""
    assert list((corpus.CORPUS / target.name).iterdir())


def test_nothing_kept_belongs_to_no_target() -> None:
    """An input under a name that nobody replays proves nothing."""
    names = {target.name for target in TARGETS}
    folders = {path.name for parent in (corpus.CORPUS, corpus.FINDINGS) for path in parent.iterdir()}
    assert folders <= names


def test_the_only_card_numbers_kept_are_published_test_numbers() -> None:
    """P6: a mutation may make a number that somebody carries in his pocket."""
    for target in TARGETS:
        for path in corpus.kept(target):
            assert not corpus.foreign_card_numbers(path.read_bytes()), f"{target.name}: {path.name}"


@EACH
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_inputs_that_keep_their_structure_are_taken_too(target: Target, seed: int) -> None:
    """P6, P8: as the fuzzer makes them, a few steps away from a seed."""
    random = Random(seed)
    data = random.choice(list(target.seeds()))
    for _ in range(STEPS):
        data = target.mutate(data, random) if target.mutate is not None else _flipped(data, random)
    execute(target, data[: target.longest_bytes])


def _flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


@given(st.lists(st.binary(max_size=40), max_size=frames.FRAMES_MAX), st.binary(max_size=80))
@settings(deadline=None)
def test_frames_come_back_and_any_bytes_are_frames(parts: list[bytes], junk: bytes) -> None:
    """What a sequence of records is made of."""
    assert frames.split(frames.join(parts)) == parts
    assert len(frames.split(junk)) <= frames.FRAMES_MAX


# The harness itself: a check that was never seen red proves nothing.


def _target(run: object) -> Target:
    return Target("planted", "", run, lambda: [b""])  # type: ignore[arg-type]


def test_a_card_number_in_a_log_line_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: in what production would write, after its own mask."""
    monkeypatch.setattr("streams.logs.mask", lambda text, *_: (text, []))
    with pytest.raises(Finding, match="log line"):
        execute(_target(lambda _: logging.getLogger("x").debug("to %s", "4957030420210462")), b"")


def test_an_input_that_takes_too_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """By CPU time, which other processes do not change."""
    monkeypatch.setattr("tests.fuzz.harness.CPU_SECONDS_MAX", 0.0)
    with pytest.raises(Finding, match="CPU"):
        execute(_target(lambda _: sum(range(10_000))), b"")


def test_a_tree_that_calls_a_decline_paid_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: the target says by itself what an answer proves."""
    declined = b'\x00\n\n{"actionCode": "05"}'
    execute(BY_NAME["visa_reply"], declined)
    monkeypatch.setattr("processors.visa.outcome.APPROVED", frozenset({"00", "05", "11"}))
    with pytest.raises(Finding, match="without its proof"):
        execute(BY_NAME["visa_reply"], declined)


def test_a_card_number_in_a_row_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: in a clear column, where the intake withholds it."""
    data = pipeline.one_request(correlation_id="4957030420210462")
    execute(BY_NAME["intake"], data)
    monkeypatch.setattr("streams.intake._clear", lambda text: text)
    with pytest.raises(Finding, match="row"):
        execute(BY_NAME["intake"], data)


def test_a_record_that_is_dropped_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """P1, K6: what is not decodable must be somewhere."""

    async def forget(*_: object) -> None:
        """Nothing."""

    monkeypatch.setattr("streams.dead_letters.DeadLetters.set_aside", forget)
    with pytest.raises(Finding, match="no end"):
        execute(BY_NAME["intake"], frames.join([b"\x00\x00not Avro"]))


def test_a_promise_that_is_not_kept_is_a_finding() -> None:
    """And an exception of the code under test leaves the harness as it is."""
    with pytest.raises(Finding, match="promise"):
        check(False, "promise")
    with pytest.raises(ZeroDivisionError):
        execute(_target(lambda _: 1 / 0), b"")
