"""Several byte strings in one input: how a fuzz target gets a sequence of records.

A frame is two bytes of length and that many bytes; what is cut short ends with the input, so that any bytes are frames.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Final

_LENGTH_BYTES: Final = 2
FRAMES_MAX: Final = 6


def split(data: bytes) -> list[bytes]:
    """The frames of an input."""
    found: list[bytes] = []
    while data and len(found) < FRAMES_MAX:
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        found.append(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        data = data[_LENGTH_BYTES + length :]
    return found


def join(frames: Iterable[bytes]) -> bytes:
    """The input of these frames."""
    return b"".join(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame for frame in frames if len(frame) < 2**16)


def mutated(data: bytes, random: Random, change: Callable[[bytes, Random], bytes]) -> bytes:
    """One frame changed, doubled, moved or left out."""
    frames = split(data)
    if not frames:
        return data
    place = random.randrange(len(frames))
    what = random.randrange(8)
    if what == 0 and len(frames) < FRAMES_MAX:
        frames.insert(random.randrange(len(frames) + 1), frames[place])
    elif what == 1 and len(frames) > 1:
        del frames[place]
    else:
        frames[place] = change(frames[place], random)
    return join(frames)
