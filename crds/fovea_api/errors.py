"""The one tree of errors. Each says what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class FoveaError(Exception):
    """Base of all errors that Fovea raises on purpose.

    Args:
        message: What was wrong, in plain English.
        location: A file with its line, or a field path such as `spec.splits.ratios`.
        remedy: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, location: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        what_to_do = f" ({self.remedy})" if self.remedy else ""
        return f"{where}{self.message}{what_to_do}"

    @property
    def reason(self) -> str:
        """CamelCase reason for a condition or a run's result."""
        return type(self).__name__


class InvalidInput(FoveaError):
    """What the user gave is wrong; trying again changes nothing."""


class InvalidManifest(InvalidInput):
    """A manifest breaks the API's schema or one of its rules."""

    @classmethod
    def from_validation(cls, error: ValidationError, location: str | None = None) -> InvalidManifest:
        """All problems of a pydantic error, one a line, each with its field path."""
        return cls("\n".join(f"{path}: {message}" for path, message in problems(error)), location)


class NotSupported(InvalidInput):
    """What the API knows and this version cannot do."""


class CorruptData(InvalidInput):
    """Stored data does not have the content that its digest promises."""


class MissingExtra(FoveaError):
    """A part of Fovea is used whose optional dependencies are not installed."""

    def __init__(self, extra: str, part: str) -> None:
        super().__init__(f"{part} needs packages that are not installed", None, f"pip install 'fovea[{extra}]'")


class Retryable(FoveaError):
    """Something outside failed (network, store, preemption); the same work may succeed later."""

    exit_code = 75


class Recoverable(FoveaError):
    """A fault of the infrastructure: credentials, disk space, an unavailable store. The work itself is in order.

    It waits, and goes on from its last checkpoint when the cause is resolved; no retry is used up.
    """

    exit_code = 75


class Interrupted(Retryable):
    """The work was asked to stop (SIGTERM) and has saved what it had."""


def refuse(errors: Iterable[FoveaError]) -> None:
    """Raises what is wrong, if anything is: the error, or one that has all of them, one a line."""
    known = list(errors)
    if len(known) == 1:
        raise known[0]
    if known:
        raise InvalidInput("\n".join(map(str, known)))


def problems(error: ValidationError, model: type[BaseModel] | None = None) -> Iterator[tuple[str, str]]:
    """Pairs of (field path, message), paths written as `spec.sources[0].uri`; with the names that may have been meant.

    Args:
        error: What pydantic raised.
        model: What was validated; with it, fields that do not exist are answered with the nearest that does.
    """
    found = error.errors(include_url=False)
    for item in found:
        if item["type"] == "too_short" and any(_is_below(other["loc"], item["loc"]) for other in found):
            continue  # pydantic counts those items alone that are in order
        loc = item["loc"][:-2] if item["loc"][-1:] == ("[key]",) else item["loc"]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
        field = str(item.get("ctx", {}).get("field", ""))
        names: Iterable[str] = re.findall("'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
        given = str(item["input"]) if names else str(loc[-1:] and loc[-1])
        if item["type"] == "extra_forbidden" and model is not None:
            names = _fields(model, loc[:-1])
        near = difflib.get_close_matches(given.lower(), {name.lower(): name for name in names}, 1, 0.6)
        meant = next((f"; did you mean {name}?" for name in names if [name.lower()] == near), "")
        yield (path + field).lstrip(".") or "manifest", item["msg"] + meant


def _is_below(loc: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(loc) > len(other) and loc[: len(other)] == other


def _fields(model: type[BaseModel], loc: Iterable[int | str]) -> list[str]:
    """The fields of the model that lies at a path inside of another."""
    for part in loc:
        if isinstance(part, str) and (named := [each for each in model.model_fields.values() if part == each.alias]):
            model = next(_models(named[0].annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
