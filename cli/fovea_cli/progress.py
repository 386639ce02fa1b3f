"""How far a copy is: a bar on a terminal, elsewhere a line now and then; both on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


@contextmanager
def bytes_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows the share of `total` bytes that is done; gives what any thread calls with the bytes of each part."""
    lock, done, last = threading.Lock(), 0, time.monotonic()
    if sys.stderr.isatty():
        with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=False) as bar:

            def advance(count: int) -> None:
                with lock:
                    bar.update(count)

            yield advance
        return

    def report(count: int) -> None:
        nonlocal done, last
        with lock:
            done += count
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                click.echo(f"{label}: {size_in_words(done)} of {size_in_words(total)}", err=True)

    yield report


def size_in_words(count: int) -> str:
    """`13.7 MB`, in powers of ten as disks and stores count."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
