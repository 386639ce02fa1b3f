"""A camera: an RTSP server on loopback that shows pictures again and again, which FFmpeg really reads.

MJPEG in RTP (RFC 2435) within the connection (RTSP 1.0, RFC 2326, section 10.12).
"""

from __future__ import annotations

import itertools
import re
import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import md5
from types import TracebackType
from typing import BinaryIO, Self

import cv2
import numpy as np
from numpy.typing import NDArray

RATE = 50
"""Pictures a second."""
LINES = ("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", "m=video 0 RTP/AVP 26", "a=control:v", "")
SDP = "\r\n".join(LINES)
REALM, NONCE = "camera", "once"
BASIC = f'WWW-Authenticate: Basic realm="{REALM}"\r\n'
DIGEST = f'WWW-Authenticate: Digest realm="{REALM}", nonce="{NONCE}"\r\n'
DIGESTS = DIGEST.replace("Digest ", 'Digest qop="auth", opaque="o", ')
DIGESTS = f"{DIGEST.replace('Digest ', 'Digest algorithm=SHA-256, ')}{DIGESTS}Content-Length: 4\r\n"
"""As newer ones ask."""
HEADERS = {
    "OPTIONS": "Public: DESCRIBE, SETUP, PLAY\r\n",
    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n",
    "PLAY": "Session: 1\r\n",
}


class Camera:
    """Serves as long as it is open.

    Args:
        pictures: What it shows, `[H, W, 3]`, sides in multiples of 8.
        login: user:password that it asks for; empty: it does not.
        asks: The headers by which it asks.
        status: What it answers to DESCRIBE.
        each: Pictures after which it closes a connection.
    """

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        login: str = "",
        status: str = "200 OK",
        each: int | None = None,
        asks: str = DIGEST,
    ) -> None:
        self.login, self.status, self.each, self.asks = login, status, each, asks
        self.size = pictures[0].shape[1] // 8, pictures[0].shape[0] // 8
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        self.files = [cv2.imencode(".jpg", picture, quality)[1].tobytes() for picture in pictures]
        self.played = 0
        """Connections over which pictures were asked for."""

    def __enter__(self) -> Self:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.uri = f"rtsp://127.0.0.1:{self.server.getsockname()[1]}/hall?channel=7"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with suppress(OSError):  # it was closed before
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self.server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            return  # it is closed

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as asked:
                if self._answer(connection, asked):
                    self.played += 1
                    self._play(connection)
        except OSError:
            return  # who watches has gone

    def _answer(self, connection: socket.socket, asked: BinaryIO) -> bool:
        """Answers until pictures are asked for, which is true, or nothing more."""
        while line := asked.readline():
            method, uri = line.decode().split()[:2]
            fields = [field.decode().partition(": ") for field in iter(asked.readline, b"\r\n")]
            given = {name.lower(): value.strip() for name, _, value in fields}
            status, headers = "200 OK", HEADERS.get(method, "")
            if method == "DESCRIBE" and self.login and not knows(self.login, uri, given.get("authorization", "")):
                status, headers = "401 Unauthorized", self.asks
            elif method == "DESCRIBE":
                status, headers = self.status, headers if self.status == "200 OK" else ""
            body = SDP if method == "DESCRIBE" and status == "200 OK" else "no\r\n" if "Length" in headers else ""
            connection.sendall(f"RTSP/1.0 {status}\r\nCSeq: {given['cseq']}\r\n{headers}\r\n{body}".encode())
            if method == "PLAY":
                return True
        return False

    def _play(self, connection: socket.socket) -> None:
        sequence = itertools.count()
        for number in itertools.count() if self.each is None else range(self.each):
            data = self.files[number % len(self.files)]
            for payload, last in packets(data, self.size):
                head = struct.pack(
                    ">BBHII", 0x80, 26 | (128 if last else 0), next(sequence) % 65536, number * 90_000 // RATE, 7
                )
                connection.sendall(struct.pack(">cBH", b"$", 0, len(head + payload)) + head + payload)
            time.sleep(1 / RATE)


def knows(login: str, uri: str, shown: str) -> bool:
    """Whether what somebody shows for DESCRIBE proves the login (RFC 2617)."""
    user, _, password = login.partition(":")
    known, asked = (md5(text.encode()).hexdigest() for text in (f"{user}:{REALM}:{password}", f"DESCRIBE:{uri}"))
    own = re.search('cnonce="(.*?)"', shown)
    between = f"00000001:{own[1]}:auth:" if own else ""
    response = md5(f"{known}:{NONCE}:{between}{asked}".encode()).hexdigest()
    return f'response="{response}"' in shown or shown == f"Basic {b64encode(login.encode()).decode()}"


def packets(data: bytes, size: tuple[int, int]) -> Iterator[tuple[bytes, bool]]:
    """The payloads of a JPEG file with colours of half the size, and whether each is the last; `size` in blocks."""
    tables, scan = _parts(data)
    for start in range(0, len(scan), 1400):
        part = scan[start : start + 1400]
        quantization = struct.pack(">HH", 0, len(tables)) + tables if start == 0 else b""
        yield struct.pack(">IBBBB", start, 1, 255, *size) + quantization + part, start + 1400 >= len(scan)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """The quantization tables of a JPEG file, and its scan."""
    tables, at = b"", 2
    while True:
        marker, length = struct.unpack(">HH", data[at : at + 4])
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        if marker == 0xFFDB:
            tables += b"".join(body[start + 1 : start + 65] for start in range(0, len(body), 65))
        if marker == 0xFFDA:
            return tables, data[at:-2]
