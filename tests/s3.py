"""A real S3 server (versitygw), whose buckets are the folders of a folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port

SERVER = shutil.which("versitygw")
START_SECONDS = 120.0
"""It only ends a hang."""


@contextmanager
def running(root: Path) -> Iterator[dict[str, str]]:
    """Runs a server over a folder; the settings by which it is found."""
    if SERVER is None:
        pytest.skip("versitygw is not on the PATH (github.com/versity/versitygw)")
    port = free_port()
    command = [SERVER, "--port", f"127.0.0.1:{port}", "--access", "user", "--secret", "secret-key", "posix", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(process, port)
        yield {
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "secret-key",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
        }
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, "versitygw has ended"
            assert time.monotonic() < end, "versitygw did not start"
            time.sleep(0.05)
