"""Ports for the servers that tests start."""

from __future__ import annotations

import os
import socket
from itertools import cycle

FIRST, LAST = 20_500, 30_000
"""Below those that the kernel gives to clients, and to whoever asks for any: some seconds pass until the server takes
the port that was free. Above those of Ray's workers, below those of Kubernetes' Services."""

_START = FIRST + os.getpid() * 97 % (LAST - FIRST)
_PORTS = cycle((*range(_START, LAST), *range(FIRST, _START)))
"""Processes of pytest begin at different ones, and none gives a port out twice."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody has."""
    for port in _PORTS:
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("a cycle has no end")
