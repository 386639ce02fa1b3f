"""How a run reports how far it is: into its Run object on a cluster, onto the terminal by hand."""

from __future__ import annotations

import json
import logging
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from fovea_api.errors import Retryable
from fovea_api.names import API_VERSION, GROUP, RUN_FIELD_MANAGER, VERSION
from fovea_api.run import Progress, RunResult
from pydantic import JsonValue
from tqdm import tqdm

PROGRESS_SECONDS = 10.0
"""Between two reports of progress: enough for people, little for the API server."""
TIMEOUT_SECONDS = 10.0
"""Of one request to the API server."""
RESULT_SECONDS = 600.0
"""How long the result is offered to an API server that is away; it is safe in the store meanwhile."""
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 30.0
"""Waiting between two offers: doubled from the first to the last."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

log = logging.getLogger(__name__)


class StatusUnavailable(Retryable):
    """The API server did not take the status."""


class Reporter(Protocol):
    """Where a run reports how far it is and what it has made."""

    def report(self, progress: Progress) -> None:
        """How far the run is; returns at once."""

    def finish(self, result: RunResult) -> None:
        """What the run has made, or why it failed."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Writes `status.progress` and `status.result` of a Run by server-side apply, and nothing else.

    Args:
        host: Base URL of the API server.
        namespace: Namespace of the Run.
        name: Name of the Run.
        credentials: Folder with `token` and `ca.crt`; the token is read anew each time, because it is renewed.
    """

    host: str
    namespace: str
    name: str
    credentials: Path = SERVICE_ACCOUNT

    def apply(self, status: Mapping[str, JsonValue]) -> None:
        """Applies the two fields. Raises StatusUnavailable."""
        url = (
            f"{self.host}/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/runs/{self.name}/status"
            f"?fieldManager={RUN_FIELD_MANAGER}"
        )
        body = {"apiVersion": API_VERSION, "kind": "Run", "metadata": {"name": self.name}, "status": dict(status)}
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), method="PATCH")
            request.add_header("Authorization", f"Bearer {(self.credentials / 'token').read_text().strip()}")
            request.add_header("Content-Type", "application/apply-patch+yaml")  # JSON is YAML
            context = ssl.create_default_context(cafile=str(self.credentials / "ca.crt"))
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context):
                pass
        except urllib.error.HTTPError as error:
            reason = error.read(2000).decode(errors="replace")
            raise StatusUnavailable(f"the API server answers {error.code}: {reason}", url) from error
        except (OSError, HTTPException) as error:
            raise StatusUnavailable(f"the API server cannot be reached: {error}", url) from error


class StatusReporter:
    """Reports into a Run's status; progress in the background, so that training never waits for the API server."""

    def __init__(self, status: RunStatus, interval: float = PROGRESS_SECONDS) -> None:
        self._status, self._interval = status, interval
        self._latest: Progress | None = None
        self._news, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="progress", daemon=True)
        self._thread.start()

    def report(self, progress: Progress) -> None:
        self._latest = progress
        self._news.set()

    def finish(self, result: RunResult) -> None:
        """Offers the result until it is taken. Raises StatusUnavailable after RESULT_SECONDS."""
        self.close()
        self._thread.join()  # a progress that arrived after the result would remove it
        # A server-side apply names all fields that its manager owns: what it leaves out would be removed.
        fields: dict[str, JsonValue] = {"result": result.to_dict()}
        if self._latest is not None:
            fields["progress"] = self._latest.to_dict()
        deadline, wait = time.monotonic() + RESULT_SECONDS, FIRST_RETRY_SECONDS
        while True:
            try:
                return self._status.apply(fields)
            except StatusUnavailable as error:
                if time.monotonic() + wait > deadline:
                    raise
                log.warning("%s; trying again in %.0f s", error, wait)
            time.sleep(wait)
            wait = min(2 * wait, LAST_RETRY_SECONDS)

    def close(self) -> None:
        """Sends nothing more in the background."""
        self._closed.set()
        self._news.set()
        self._thread.join(TIMEOUT_SECONDS + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _send(self) -> None:
        while self._news.wait() and not self._closed.is_set():
            self._news.clear()
            if self._latest is not None:
                try:
                    self._status.apply({"progress": self._latest.to_dict()})
                except StatusUnavailable as error:
                    log.warning("progress was not reported: %s", error)
            self._closed.wait(self._interval)


class TerminalReporter:
    """A progress bar on a terminal; elsewhere a line every PROGRESS_SECONDS, between those of the log."""

    def __init__(self) -> None:
        live = sys.stderr.isatty()
        self._bar = tqdm(total=100, unit="%", bar_format="{desc} {bar} {n:3d} % {postfix}") if live else None
        self._last = time.monotonic()

    def report(self, progress: Progress) -> None:
        if self._bar is not None:
            self._bar.n = progress.percent or 0
            self._bar.set_description_str(progress.stage or "", refresh=False)
            self._bar.set_postfix_str(_figures(progress), refresh=True)
        elif time.monotonic() - self._last >= PROGRESS_SECONDS:
            self._last = time.monotonic()
            print(f"{progress.percent or 0:3d} % {progress.stage or '':<12} {_figures(progress)}", file=sys.stderr)

    def finish(self, result: RunResult) -> None:
        pass  # the command prints it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class _AboveTheBar(logging.Handler):
    """Prints to standard error; a progress bar there moves down."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Shows a person what happens in the meantime."""
    ours, handler = logging.getLogger("fovea_trainer"), _AboveTheBar()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


def _figures(progress: Progress) -> str:
    """The figures of a progress in a line, the most telling first."""
    parts = []
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch:g}/{progress.epochs}")
    parts += [f"{name} {value:.3g}" for name, value in progress.metrics.items() if name != "train/learningRate"]
    if progress.best is not None:
        parts.append(f"best {progress.best.value:.3f}")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:g} images/s")
    if progress.eta is not None:
        parts.append(f"{progress.eta} left")
    return ", ".join([*parts, *([progress.message] if progress.message else [])])
