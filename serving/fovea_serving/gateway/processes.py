"""Several processes that listen on the same ports: Python runs one thread of itself at a time in each.

A process that dies (a library that crashes on an image) takes its own requests with it; the others go on answering,
and another takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryDirectory

from prometheus_client.multiprocess import mark_process_dead

from fovea_serving.gateway.metrics import MULTIPROCESS

RESTART_SECONDS = 1.0
"""Pause before a process that died is replaced."""

log = logging.getLogger(__name__)


def run_processes(work: Callable[[], None], count: int) -> None:
    """Does the work in this process, or in `count` new ones until a signal comes, which they get too.

    Args:
        work: Ends at SIGTERM; can be pickled.
        count: Number of processes.
    """
    if count == 1:
        return work()
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for process in running:
            process.terminate()

    def start() -> None:
        running.append(_start(work))
        if stopping:  # the signal came while it was started, and has not reached it
            running[-1].terminate()

    with TemporaryDirectory(prefix="fovea-metrics-") as folder:
        os.environ[MULTIPROCESS] = folder
        running: list[SpawnProcess] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        for _ in range(count):
            start()
        while running:
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                if not stopping:
                    log.error("a process ended with %s; another takes its place", process.exitcode)
                    time.sleep(RESTART_SECONDS)
                    start()


def _start(work: Callable[[], None]) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(work,))
    process.start()
    return process


def _work(work: Callable[[], None]) -> None:
    """Does the work, and ends it when the first process is gone: else it would hold the ports for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    work()
