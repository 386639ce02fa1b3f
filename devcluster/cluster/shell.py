"""Running commands, waiting for conditions, telling what happens."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .settings import BIN

PATH = (
    f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin:{os.environ.get('PATH', '')}"
)
_START = time.monotonic()


class Failure(Exception):
    """What went wrong and what to do, in words for the user."""


def say(text: str) -> None:
    print(f"{time.monotonic() - _START:7.1f}s  {text}", file=sys.stderr, flush=True)


def run(
    *command: str | Path,
    stdin: str | None = None,
    check: bool = True,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Standard output of a command; Failure with its standard error when it fails and `check` is set."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            text=True,
            capture_output=True,
            cwd=cwd,
            timeout=timeout,
            env={**os.environ, "PATH": PATH, **(env or {})},
        )
    except FileNotFoundError as error:
        raise Failure(f"{words[0]} is not installed; run devcluster/install as root") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{' '.join(words)} did not end within {timeout:.0f} s") from error
    if check and done.returncode:
        raise Failure(f"{' '.join(words)} failed ({done.returncode}):\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def succeeds(*command: str | Path, timeout: float = 20) -> bool:
    try:
        return (
            subprocess.run(
                [str(word) for word in command], capture_output=True, timeout=timeout, env={**os.environ, "PATH": PATH}
            ).returncode
            == 0
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def wait_for(what: str, seconds: float, ready: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    """Returns when `ready` is true; Failure with what `explain` says when `seconds` have passed."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise Failure(f"{what} is not ready after {seconds:.0f} s. {explain()}".strip())
        time.sleep(0.1)
    say(f"{what} is ready")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file's lock, so that two commands never work on the same state; the kernel frees it if we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another devcluster command ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(mode)
    part.rename(path)
