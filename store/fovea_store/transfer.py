"""Copying folders between this machine and where a cluster reads them, in parallel; what is there already stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fovea_api.errors import InvalidInput

from fovea_store.errors import NotFound
from fovea_store.path import Entry, StorePath, local_files

CONNECTIONS = 8
"""Files that are copied at once: enough to hide the round trips of small files."""


class Remote(Protocol):
    """A folder that is not on this machine."""

    def files(self) -> list[Entry]:
        """All files below, sorted by path; empty where nothing is there."""

    def send(self, folder: Path, paths: Sequence[str], sent: Callable[[int], None]) -> None:
        """Copies these files below a local folder there; `sent` is called with the bytes of each as it arrives."""

    def receive(self, folder: Path, paths: Sequence[str], received: Callable[[int], None]) -> None:
        """Copies these files into a local folder; `received` is called with the bytes of each as it arrives."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a copy has to do.

    Args:
        paths: Files that are copied, relative to the folder, and the bytes that they have in all.
        present: Files that are there already, and are left as they are.
    """

    paths: tuple[str, ...]
    bytes: int
    present: int


class StoreFolder:
    """A folder in an object store or on a file system."""

    def __init__(self, place: StorePath) -> None:
        self.place = place

    def files(self) -> list[Entry]:
        return self.place.files(missing_ok=True)

    def send(self, folder: Path, paths: Sequence[str], sent: Callable[[int], None]) -> None:
        def copy(path: str) -> None:
            (self.place / path).upload(folder / path)
            sent((folder / path).stat().st_size)

        _in_parallel(copy, paths)

    def receive(self, folder: Path, paths: Sequence[str], received: Callable[[int], None]) -> None:
        def copy(path: str) -> None:
            (self.place / path).download(folder / path)
            received((folder / path).stat().st_size)

        _in_parallel(copy, paths)


def plan_push(folder: Path, remote: Remote) -> Plan:
    """What is missing there. A file is present that has the same size and was not written after its copy.

    Hidden files (`.git`, `.DS_Store`) are left out. Raises InvalidInput where the folder holds no file.
    """
    files = [entry for entry in sorted(local_files(folder, True), key=lambda entry: entry.path) if not _hidden(entry)]
    if not files:
        raise InvalidInput("there are no files", str(folder), "give the folder that holds them")
    if broken := [entry.path for entry in files if "�" in entry.path]:
        raise InvalidInput("the name is not UTF-8", str(folder / broken[0]), "rename the file")
    return _plan(files, {entry.path: entry for entry in remote.files()})


def plan_pull(remote: Remote, folder: Path, place: str) -> Plan:
    """What is missing here; see `plan_push`. Raises NotFound."""
    files = remote.files()
    if not files:
        raise NotFound("there is nothing", place, "check the path")
    here = {entry.path: entry for entry in local_files(folder, True)} if folder.is_dir() else {}
    return _plan(files, here)


def _plan(files: Sequence[Entry], there: dict[str, Entry]) -> Plan:
    missing = [entry for entry in files if not _is_copy(there.get(entry.path), entry)]
    return Plan(tuple(entry.path for entry in missing), sum(entry.size for entry in missing), len(files) - len(missing))


def _is_copy(there: Entry | None, here: Entry) -> bool:
    """Whether a file is the copy of another, as far as size and time say; stores keep whole seconds."""
    return there is not None and there.size == here.size and there.modified // 10**9 >= here.modified // 10**9


def _hidden(entry: Entry) -> bool:
    return any(part.startswith(".") for part in entry.path.split("/"))


def _in_parallel(work: Callable[[str], None], paths: Sequence[str]) -> None:
    """Does the work for each path. Raises the first error, after what has begun is done."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        tasks = [pool.submit(work, path) for path in paths]
        done, waiting = wait(tasks, return_when=FIRST_EXCEPTION)
        for task in waiting:
            task.cancel()
        for task in done:
            task.result()
