"""Text as the world writes it: encodings of label files, and letters that are composed or not."""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import BinaryIO

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC); macOS decomposes the letters of file names."""
    return text if text.isascii() else unicodedata.normalize("NFC", writable(text))


def writable(text: str) -> str:
    """The text with a question mark for each letter that UTF-8 has not: half of a pair, as JSON and names of files may
    have it."""
    return text.encode(errors="replace").decode()


def encoding_of(start: bytes) -> str:
    """The encoding that the first bytes of a file say by their byte order mark; UTF-8 where they say nothing."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> tuple[str, str]:
    """The text of a file and the encoding that it was read in: by its byte order mark, else UTF-8, else Windows-1252.

    Windows-1252 is a guess that is always possible: letters beyond ASCII may be wrong.
    """
    encoding = encoding_of(data[:4])
    try:
        return data.decode(encoding), "utf-8" if encoding == "utf-8-sig" else encoding
    except UnicodeDecodeError:
        return data.decode("windows-1252", errors="replace"), "windows-1252"


def text_stream(raw: BinaryIO) -> io.TextIOWrapper:
    """A file's text, read bit by bit, with its line ends: as `decode_text` reads it, but that each byte that is not in
    the encoding is taken for Windows-1252, for itself.

    Args:
        raw: The file at its start, which can be read at any position.
    """
    encoding = encoding_of(raw.read(4))
    raw.seek(0)
    return io.TextIOWrapper(raw, encoding, errors=_WINDOWS, newline="")


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("windows-1252", errors="replace"), error.end


_WINDOWS = "fovea.windows-1252"
codecs.register_error(_WINDOWS, _as_windows)
