"""Small XML documents in any encoding, as trees with lines. What bombs are made of is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from fovea_api.errors import InvalidInput

from fovea_trainer.data.text import encoding_of

MAX_DEPTH = 32
"""Nesting of elements; a real annotation has 4."""
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
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, tag: str) -> Element | None:
        return next((child for child in self.children if child.tag == tag), None)

    def value(self, tag: str) -> str:
        """The text of a child, without blanks around it; empty where there is none."""
        child = self.find(tag)
        return child.text.strip() if child is not None else ""


def xml_text(data: bytes) -> str:
    """The text of a document, without its declaration.

    The byte order mark says the encoding, then the declaration where its word fits the bytes, else it is UTF-8. Bytes
    that the encoding has no letter for become UNREADABLE.
    """
    declared = _DECLARED.match(data[:300])
    encoding = declared[1].decode("ascii") if declared else "utf-8"
    if (marked := encoding_of(data[:4])) != "utf-8":
        encoding = marked
    elif data[:2] in (b"<\0", b"\0<"):
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    elif encoding.lower().startswith("utf-16") or not _ENCODING.match(encoding):
        encoding = "utf-8"
    elif encoding.lower() in ("gb2312", "gbk"):
        encoding = "gb18030"  # what Windows writes under these names has letters that they lack
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        text = data.decode("utf-8", errors="replace")
    match = _DECLARATION.match(text)
    lines = "\n" * match[0].count("\n") if match else ""
    return lines + (text[match.end() :] if match else text).translate(_CONTROL)


def parse_xml(data: bytes, path: str) -> Element:
    """A small XML document as a tree. Entities and document types, which bombs are made of, are refused."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack = [Element("", 0)]

    def refuse(*_: object) -> int:
        raise InvalidInput(
            "the file declares a document type or entities",
            f"{path}:{parser.CurrentLineNumber}",
            "remove <!DOCTYPE …>: annotations need none, and it can be used for attacks",
        )

    def start(tag: str, _: dict[str, str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise InvalidInput(f"elements are nested more than {MAX_DEPTH} deep", f"{path}:{parser.CurrentLineNumber}")
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(xml_text(data), True)
    except expat.ExpatError as error:
        raise InvalidInput(
            f"the XML is broken: {expat.ErrorString(error.code)}",
            f"{path}:{error.lineno}",
            "repair or remove the file",
        ) from None
    return stack[0].children[0]
