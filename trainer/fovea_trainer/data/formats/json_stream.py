"""JSON that is read as a stream: memory is bounded by one item, and every item and error names its line.

Programs write a whole file as one line: an item that shares its line has its number beside it, from 1 on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TextIO

from fovea_api.errors import InvalidInput
from pydantic import JsonValue

BLOCK = 1 << 20
"""Characters read at once."""
MAX_ITEM = 64 << 20
"""Characters of one item."""


def stream_arrays(
    stream: TextIO, file: str, arrays: set[str], others: dict[str, JsonValue] | None = None
) -> Iterator[tuple[str, JsonValue, str]]:
    """The items of the arrays of the top-level object, as (key, item, place), holding one item at a time.

    NaN and infinity become None; nesting as deep as a bomb and broken JSON raise InvalidInput with the line.

    Args:
        stream: The text.
        file: Its name, for places and errors.
        arrays: Filled with the keys of all arrays, of empty ones, too.
        others: Filled with what is no array, by key.
    """
    text = _Window(stream, file)
    text.begin("{")
    text.expect("{")
    if text.peek() == "}":
        return
    while True:
        key = text.value()
        if not isinstance(key, str):
            raise text.error("a key is not a text")
        text.expect(":")
        if text.peek() == "[":
            arrays.add(key)
            yield from ((key, item, place) for item, place in _items(text, f" of {key}"))
        else:
            value = text.value()
            if others is not None:
                others[key] = value
        if text.peek() == "}":
            return
        text.expect(",")


def stream_list(stream: TextIO, file: str) -> Iterator[tuple[JsonValue, str]]:
    """The items of a top-level array, as (item, place); like `stream_arrays`."""
    text = _Window(stream, file)
    text.begin("[")
    return _items(text, "")


def _items(text: _Window, of: str) -> Iterator[tuple[JsonValue, str]]:
    text.expect("[")
    number = before = 0
    while text.peek() != "]":
        text.skip_space()
        number, line = number + 1, text.line
        item = text.value()
        yield item, f"{text.file}:{line}, entry {number}{of}" if line == before else f"{text.file}:{line}"
        before = text.line
        if text.peek() != ",":
            break
        text.expect(",")
    text.expect("]")


def shown(value: JsonValue) -> str:
    """A value as messages show it: its JSON, cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Window:
    """A moving piece of a JSON text, and the line that it starts on."""

    def __init__(self, stream: TextIO, file: str) -> None:
        self.stream, self.file = stream, file
        self.text, self.position, self.line, self.ended = "", 0, 1, False
        self.decode: Callable[[str, int], tuple[JsonValue, int]] = json.JSONDecoder(
            parse_constant=lambda _: None
        ).raw_decode

    def error(self, message: str) -> InvalidInput:
        return InvalidInput(message, f"{self.file}:{self.line}", "repair the file")

    def fill(self) -> bool:
        """Reads on; drops what has been used. False at the end."""
        try:
            block = self.stream.read(BLOCK)
        except UnicodeDecodeError as error:
            raise self.error(f"the file is not UTF-8: {error.reason}") from None
        self.text, self.position = self.text[self.position :] + block, 0
        self.ended = not block
        return not self.ended

    def advance(self, end: int) -> None:
        self.line += self.text.count("\n", self.position, end)
        self.position = end

    def skip_space(self) -> None:
        while True:
            end = self.position
            while end < len(self.text) and self.text[end] in " \t\r\n":
                end += 1
            self.advance(end)
            if end < len(self.text) or not self.fill():
                return

    def peek(self) -> str:
        self.skip_space()
        return self.text[self.position : self.position + 1]

    def begin(self, sign: str) -> None:
        """Raises InvalidInput where the text does not begin with a sign: it is of another kind."""
        if (found := self.peek()) != sign:
            message = f"the file begins with {found or 'nothing'!r}, where {sign!r} is expected"
            raise InvalidInput(message, f"{self.file}:{self.line}", "it is of another format, or broken; move it away")

    def expect(self, sign: str) -> None:
        if (found := self.peek()) != sign:
            raise self.error(f"the JSON is broken: {sign!r} expected, {found or 'the end of the file'!r} found")
        self.advance(self.position + 1)

    def value(self) -> JsonValue:
        self.skip_space()
        while True:
            start = self.position
            try:
                value, end = self.decode(self.text, start)
                # A number that touches the end of the window may go on behind it.
                if end < len(self.text) or not self.fill():
                    self.advance(end - start + self.position)
                    return value
            except json.JSONDecodeError as error:
                if len(self.text) - start > MAX_ITEM:
                    raise self.error(f"an item is longer than {MAX_ITEM:,} characters") from None
                if not self.fill():
                    self.advance(min(error.pos - start, len(self.text)))
                    raise self.error(f"the JSON is broken: {error.msg}") from None
            except RecursionError:
                raise self.error("the JSON is nested too deeply") from None
            except ValueError as error:
                raise self.error(f"the JSON is broken: {error}") from None
