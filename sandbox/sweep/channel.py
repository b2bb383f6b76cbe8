"""Lines of JSON between the sweep and one of its processes, over a socket that ends with either."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from typing import Any, Final

CHUNK_BYTES: Final = 65_536


class Channel:
    """One end. What a killed process had sent is still received; then `ended` says that it is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = b""
        self.ended = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message. A peer that is gone is found by `receive`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.ended = True

    def receive(self, timeout_seconds: float) -> list[dict[str, Any]]:
        """What has come, waiting for the first of it at most so long; empty also when the peer is gone."""
        lines: list[bytes] = []
        wait = timeout_seconds
        while not self.ended and select.select([self._socket], [], [], wait)[0]:
            wait = 0.0
            try:
                chunk = self._socket.recv(CHUNK_BYTES)
            except OSError:
                chunk = b""
            self.ended = not chunk
            *whole, self._buffer = (self._buffer + chunk).split(b"\n")
            lines += whole
        return [dict(json.loads(line)) for line in lines]

    def close(self) -> None:
        """Close this end."""
        self.ended = True
        self._socket.close()
