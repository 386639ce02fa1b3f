"""Several processes of a gateway: a signal reaches each, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
from fovea_serving.gateway.processes import run_processes

def work():
    print("at work", file=sys.stderr)
    signal.pause()

if __name__ == "__main__":
    run_processes(work, 2)
"""


def test_a_signal_ends_all_also_while_one_that_died_is_replaced(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "gateway.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "gateway.py")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(process.kill)
    assert process.stderr is not None
    for _ in range(2):
        assert process.stderr.readline() == "at work\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [each for each in children if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    assert "another takes its place" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
