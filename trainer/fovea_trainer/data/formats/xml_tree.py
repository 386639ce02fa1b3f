"""XML documents in any encoding, as trees with lines: small ones whole, long ones child by child.

What bombs are made of is refused."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

from fovea_api.errors import InvalidInput

from fovea_trainer.data.text import encoding_of

MAX_DEPTH = 32
"""Nesting of elements; a real annotation has 4."""
MAX_CHILD = 64 << 20
"""Characters of one child of the root element of a long document."""
BLOCK = 1 << 20
"""Characters read at once."""
HEAD = 300
"""Bytes that have the declaration."""
UNREADABLE = "\ufffd"
"""What stands in a text for bytes that the encoding has no letter for."""
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)["']""")
_ENCODING = re.compile(
    r"(utf|us-?ascii|ascii|iso|latin|windows|cp|ms|mac|koi8|gb|big5|hz|euc|shift|sjis|ks_c|tis)", re.I
)
"""Encodings of texts; Python has others, some of which take time without end."""
_CONTROL = {number: " " for number in range(32) if chr(number) not in "\t\n\r"}


@dataclass(slots=True)
class Element:
    """An XML element with the line that it starts on."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def value(self, tag: str) -> str:
        """The text of a child, without blanks around it; empty where there is none."""
        child = self.find(tag)
        return child.text.strip() if child is not None else ""


def xml_text(data: bytes) -> str:
    """The text of a document, without its declaration. Bytes that the encoding has no letter for become UNREADABLE."""
    try:
        text = data.decode(xml_encoding(data))
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
    return _without_declaration(text)


def xml_encoding(head: bytes) -> str:
    """The encoding of a document that starts with these bytes: the byte order mark says it, then the declaration where
    its word fits the bytes, else it is UTF-8."""
    declared = _DECLARED.match(head[:HEAD])
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    if (marked := encoding_of(head[:4])) != "utf-8":
        return marked
    if head[:2] in (b"<\0", b"\0<"):
        return "utf-16-le" if head[1] == 0 else "utf-16-be"
    if encoding.lower().startswith("utf-16") or not _ENCODING.match(encoding):
        return "utf-8"
    if encoding.lower() in ("gb2312", "gbk"):
        return "gb18030"  # what Windows writes under these names has letters that they lack
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return "utf-8"


def _without_declaration(text: str) -> str:
    match = _DECLARATION.match(text)
    lines = "\n" * match[0].count("\n") if match else ""
    return lines + (text[match.end() :] if match else text).translate(_CONTROL)


def parse_xml(data: bytes, path: str) -> Element:
    """A small XML document as a tree. Entities and document types, which bombs are made of, are refused."""
    tree = _Tree(path)
    tree.feed(xml_text(data), True)
    return tree.document.children[0]


def stream_xml(file: BinaryIO, path: str, root: str) -> Iterator[Element]:
    """The children of the root element of a document of any length, each once it is complete; one is held at a time.

    What `parse_xml` refuses, another root element and a child that is too long raise InvalidInput with the line.

    Args:
        file: The document.
        path: Its name, for errors.
        root: Tag of its root element.
    """
    head = file.read(HEAD)
    file.seek(0)
    tree = _Tree(path, MAX_CHILD)
    with io.TextIOWrapper(file, xml_encoding(head), errors="replace") as stream:
        block = _without_declaration(stream.read(BLOCK))
        while True:
            tree.feed(block, not block)
            if tree.document.children and tree.document.children[0].tag != root:
                found = tree.document.children[0]
                message = f"the root element is <{found.tag}>, not <{root}>"
                raise InvalidInput(message, f"{path}:{found.line}", "it is of another format; move it away")
            yield from tree.completed()
            if not block:
                return
            block = stream.read(BLOCK).translate(_CONTROL)


class _Tree:
    """An XML document that is being parsed."""

    def __init__(self, path: str, most: int | None = None) -> None:
        """Begins one whose errors call it `path`; `most` characters may one child of the root element have."""
        self.path, self.most = path, most
        self.document = Element("", 0)
        self._open = [self.document]
        self._fed = self._begin = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.ExternalEntityRefHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def feed(self, text: str, last: bool) -> None:
        """Parses on. Raises InvalidInput with `path:line`."""
        try:
            self._parser.Parse(text, last)
        except expat.ExpatError as error:
            raise InvalidInput(
                f"the XML is broken: {expat.ErrorString(error.code)}",
                f"{self.path}:{error.lineno}",
                "repair or remove the file",
            ) from None
        self._fed += len(text)
        if self.most is not None and self._fed - self._begin > self.most:
            raise InvalidInput(f"an element is longer than {self.most:,} characters", self._place)

    def completed(self) -> Iterator[Element]:
        """The children of the root element that have ended since the last call."""
        for root in self.document.children:
            done = len(root.children) - (len(self._open) > 2)
            yield from root.children[:done]
            del root.children[:done]

    @property
    def _place(self) -> str:
        return f"{self.path}:{self._parser.CurrentLineNumber}"

    def _refuse(self, *_: object) -> int:
        raise InvalidInput(
            "the file declares a document type or entities",
            self._place,
            "remove <!DOCTYPE …>: annotations need none, and it can be used for attacks",
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise InvalidInput(f"elements are nested more than {MAX_DEPTH} deep", self._place)
        element = Element(tag, self._parser.CurrentLineNumber, attributes)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        self._open.pop()
        if len(self._open) <= 2:
            self._begin = self._fed

    def _text(self, data: str) -> None:
        if self.most is None or len(self._open) > 2:  # between the children is nothing but blanks
            self._open[-1].text += data
