"""The log of a run: on standard output, and kept in the store."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fovea_api.errors import FoveaError
from fovea_store import StorePath

from fovea_trainer.environment import RunEnvironment
from fovea_trainer.results import LOG

LOG_UPLOAD_SECONDS = 15.0
"""Between two copies of the growing log to the store; what a killed pod can lose of it."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

log = logging.getLogger(__name__)


def log_to_stdout() -> None:
    """Makes this process log what it does; of libraries, only warnings."""
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=sys.stdout)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    ours = logging.getLogger("fovea_trainer")
    ours.setLevel(logging.INFO)
    if not ours.handlers:  # one of its own: Ray has set up the root logger of its workers already
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        ours.addHandler(handler)
        ours.propagate = False


@contextmanager
def kept_log(target: StorePath, environment: RunEnvironment) -> Iterator[None]:
    """Keeps all that this process and its children print, in the store too; attempts follow each other in one file.

    A store that is away costs the log, never the run.
    """
    file = environment.work_dir / LOG
    file.parent.mkdir(parents=True, exist_ok=True)
    earlier = b""
    if environment.attempt > 1:
        try:
            earlier = target.read_bytes()
        except FoveaError:
            log.warning("the log of earlier attempts cannot be read")
    file.write_bytes(earlier + f"--- attempt {environment.attempt} ---\n".encode())
    ended = threading.Event()

    def upload() -> None:
        try:
            target.upload(file)
        except (FoveaError, OSError) as error:
            print(f"the log cannot be copied to the store: {error}", file=sys.__stderr__)

    def keep_uploading() -> None:
        while not ended.wait(LOG_UPLOAD_SECONDS):
            upload()

    with _tee(file):
        uploader = threading.Thread(target=keep_uploading, name="log", daemon=True)
        uploader.start()
        try:
            yield
        finally:
            ended.set()
            uploader.join()
    upload()


@contextmanager
def _tee(file: Path) -> Iterator[None]:
    """Copies file descriptors 1 and 2 into a file too; libraries in C and child processes included.

    A full disk costs the copy alone.
    """
    originals = [os.dup(1), os.dup(2)]
    reader, writer = os.pipe()
    for stream in (1, 2):
        os.dup2(writer, stream)
    os.close(writer)

    def copy() -> None:
        with file.open("ab", buffering=0) as sink, os.fdopen(reader, "rb", buffering=0) as source:
            while chunk := source.read(65536):
                shown = memoryview(chunk)
                while shown:
                    shown = shown[os.write(originals[0], shown) :]
                with suppress(OSError):
                    sink.write(chunk)

    thread = threading.Thread(target=copy, name="tee", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, original in enumerate(originals, 1):
            os.dup2(original, stream)
        thread.join(2)  # a child that lives on may hold the pipe open
