"""Structured logs: one JSON object a line, with the object and the run it is about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from fovea_operator.objects import Key

_object: ContextVar[Key | None] = ContextVar("object", default=None)
_EXTRAS = ("reason", "once", "run")


@contextmanager
def about(key: Key) -> Iterator[None]:
    """Everything logged in the block names this object."""
    token = _object.set(key)
    try:
        yield
    finally:
        _object.reset(token)


class JsonFormatter(logging.Formatter):
    """One line of JSON a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, logger, message; kind, namespace, name; run; the error's traceback."""
        line: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (key := _object.get()) is not None:
            line |= {"kind": key.kind.name, "namespace": key.namespace, "name": key.name}
        line |= {name: str(value) for name in _EXTRAS if (value := getattr(record, name, None)) is not None}
        if (once := line.pop("once", "")).startswith("r-"):
            line["run"] = "-".join(once.split("-")[:2])
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(level: str, format: str) -> None:
    """Sends all logs to standard error. `format` is json, or text for people."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
