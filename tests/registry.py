"""A real registry (distribution), as its users reach it without TLS."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.ports import free_port

START_SECONDS = 120.0
"""It only ends a hang."""


@contextmanager
def running(server: str | Path, host: str, folder: Path, **auth: object) -> Iterator[str]:
    """Runs a registry over a folder, with the authentication given; its address host:port."""
    address = f"{host}:{free_port(host)}"
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": address},
        **({"auth": auth} if auth else {}),
    }
    file = folder / "registry.yaml"
    file.write_text(yaml.safe_dump(config))
    process = subprocess.Popen([server, "serve", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=120)


def _await(process: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            assert process.poll() is None, "the registry has ended"
            assert time.monotonic() < end, "the registry did not start"
            time.sleep(0.05)
