"""Policy files: one of the operator's own, or the one that ships with the processor."""

from importlib import resources
from pathlib import Path


def read_policy_file(path: Path | None, shipped: str, *, what: str, invalid: type[Exception]) -> tuple[bytes, str]:
    """The bytes of the file in `path`, or of `policies/<shipped>`, and its name for messages.

    Raises `invalid`, which calls the file `what`, when it cannot be read.
    """
    source = resources.files("policies").joinpath(shipped) if path is None else path
    try:
        return source.read_bytes(), str(source)
    except OSError as error:
        raise invalid(f"{source}: the {what} cannot be read: {error.strerror}") from None
