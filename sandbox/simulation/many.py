"""Many worlds side by side, one process a core."""

from __future__ import annotations

import gc
import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from sandbox.simulation.plan import Accident, draw
from sandbox.simulation.world import Ended, World, shared

CHUNK: Final = 4
"""Worlds that a process is given at once: enough that handing them out costs nothing, few enough to end together."""
COLLECT_EVERY: Final = 8
"""Worlds between two collections: a world is one large cycle, which the collector would walk through over and over."""

Work = tuple[int, int, frozenset[Accident]]
"""A seed, its payouts, and the kinds of trouble that it has in any case."""
Given = TypeVar("Given")
Made = TypeVar("Made")


def prepare() -> None:
    """Once a process. What workers log in a world full of accidents is no news, and costs time."""
    logging.disable(logging.CRITICAL)
    shared()
    gc.collect()
    gc.freeze()  # the modules are there to stay: a collection need not walk through them


def worlds(work: Sequence[Work], processes: int) -> Iterator[Ended]:
    """Every world, in the order given; whoever stops asking stops the rest."""
    return side_by_side(run_world, work, processes, CHUNK)


def run_world(work: Work) -> Ended:
    """One world from its seed."""
    seed, payouts, always = work
    gc.disable()
    world = World(draw(seed, payouts, always=always))
    ended = world.run()
    world.take_apart()
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return ended


def side_by_side(run: Callable[[Given], Made], work: Iterable[Given], processes: int, chunk: int) -> Iterator[Made]:
    """`run` for each, in order. Fresh interpreters, so that no process inherits another's world."""
    if processes == 1:
        yield from map(run, work)
        return
    # Not an executor: whoever has seen enough must not wait for the worlds that are still running.
    with multiprocessing.get_context("spawn").Pool(processes, initializer=prepare) as pool:
        yield from pool.imap(run, work, chunk)
