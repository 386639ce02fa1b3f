"""Host processes that outlive the command that started them.

A process is known by its pid, start time and boot: a reused pid is never taken for it, so it is never killed by
mistake. The child writes its own record before it becomes the program: there is no moment in which a kill -9 of
`devcluster up` leaves a process that nobody knows.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from .shell import PATH, Failure, say, wait_for

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        # The name in parentheses may hold blanks and parentheses: what counts starts behind the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


class Processes:
    def __init__(self, state: Path) -> None:
        self.records = state / "processes"
        self.logs = state / "logs"

    def pid(self, name: str) -> int | None:
        """Pid of the process while it lives."""
        try:
            pid, started, boot = (self.records / name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if boot == BOOT and start_time(int(pid)) == started else None

    def names(self) -> list[str]:
        return sorted(path.name for path in self.records.glob("[!.]*"))

    def start(
        self, name: str, *command: str | Path, listens: tuple[str, int] | None = None, env: dict[str, str] | None = None
    ) -> bool:
        """Starts the program unless it runs; False when it ran. `listens`: the address that must be free before."""
        if self.pid(name):
            return False
        if listens:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(listens)
                except OSError as error:
                    raise Failure(
                        f"{name} cannot listen on {listens[0]}:{listens[1]}: {error.strerror}; another "
                        "program uses it, stop that first"
                    ) from error
        self.records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        words = [str(word) for word in command]
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                log = os.open(self.logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                null = os.open("/dev/null", os.O_RDONLY)
                os.dup2(null, 0), os.dup2(log, 1), os.dup2(log, 2)
                part = self.records / f".{name}"
                part.write_text(f"{os.getpid()} {start_time(os.getpid())} {BOOT}\n")
                part.rename(self.records / name)
                os.execvpe(words[0], words, {**os.environ, "PATH": PATH, **(env or {})})
            finally:
                os._exit(127)
        wait_record = time.monotonic() + 5
        while self.pid(name) != child and time.monotonic() < wait_record and start_time(child):
            time.sleep(0.005)
        return True

    def wait(self, name: str, seconds: float, ready: Callable[[], bool]) -> None:
        """Waits until `ready()`; ends at once with the end of the log when the process has died."""

        def check() -> bool:
            if not self.pid(name):
                raise Failure(f"{name} ended; the end of {self.logs / name}.log:\n{self.tail(name)}")
            return ready()

        wait_for(name, seconds, check, lambda: f"The end of {self.logs / name}.log:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 8) -> str:
        path = self.logs / f"{name}.log"
        return (
            "\n".join(line[:400] for line in path.read_text(errors="replace").splitlines()[-lines:])
            if path.exists()
            else ""
        )

    def stop(self, *names: str, seconds: float = 3) -> None:
        """TERM to all of them at once, KILL to what is left after `seconds`; forgets them."""
        for name in names:
            self._signal(name, signal.SIGTERM)
        end = time.monotonic() + seconds
        while any(self.pid(name) for name in names) and time.monotonic() < end:
            time.sleep(0.02)
        for name in names:
            if self._signal(name, signal.SIGKILL):
                say(f"{name} did not end within {seconds:.0f} s: killed")
            while self.pid(name):
                time.sleep(0.01)
            (self.records / name).unlink(missing_ok=True)

    def _signal(self, name: str, number: signal.Signals) -> bool:
        pid = self.pid(name)
        if pid:
            os.kill(pid, number)
        return bool(pid)
