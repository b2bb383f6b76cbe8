"""New files that only their owner reads (0600), never over another, and on the disk when they are done."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def new_private_file(path: Path) -> Iterator[IO[str]]:
    """A text file to write into, ends of lines as they are given. Raises OSError; FileExistsError where one is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_private(path: Path, text: str) -> None:
    """The same with all of its text at once."""
    with new_private_file(path) as file:
        file.write(text)
