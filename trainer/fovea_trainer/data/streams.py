"""Pictures of a live stream as they come: RTSP, read by FFmpeg as OpenCV brings it, and in words why there are none.

FFmpeg asks for TCP and takes UDP where the camera has nothing else. Of a stream that it cannot open it says no more
than that, so the camera is asked once more, by hand (DESCRIBE of RTSP 1.0, RFC 2326; the user by RFC 2617).
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from base64 import b64encode
from collections.abc import Generator
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote, urlsplit
from urllib.request import parse_http_list

import cv2
import numpy as np
from fovea_api.dataset import STREAM, Source
from fovea_api.errors import InvalidInput
from numpy.typing import NDArray

from fovea_trainer.data.checks import MAX_PIXELS
from fovea_trainer.data.sources import SourceUnavailable, secret_folder

PORT = 554
"""Of RTSP, where the address has none."""
USERNAME, PASSWORD = "RTSP_USERNAME", "RTSP_PASSWORD"
"""Keys of the Secret; by hand, environment variables."""
ANSWER_BYTES = 64 << 10
"""Longest answer that is read; cameras send a thousand at most."""
STATUS = re.compile(rb"RTSP/\d\.\d (\d{3})")
CHALLENGE = re.compile(r"^WWW-Authenticate:[ \t]*(\w+)[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)

log = logging.getLogger(__name__)


class StreamUnavailable(SourceUnavailable):
    """A stream gives no pictures now, and may later."""


class StreamRefused(InvalidInput):
    """A stream gives no pictures until somebody changes its address, or the user's rights."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream is waited for, in seconds."""

    picture: float = 20.0
    """For the next picture of a connection. Some cameras send a whole one every ten seconds only, with which it begins.
    Less than a pod's grace period: FFmpeg is not interrupted meanwhile."""
    away: float = 60.0
    """Without a picture, however often it was connected anew, until the stream is given up: a camera that starts anew
    takes less."""
    answer: float = 10.0
    """For the answer that says why there is no picture."""
    pause: float = 2.0
    """Before the next connection."""


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Stream:
    """A live stream.

    Args:
        uri: rtsp://host/path.
        place: The field that names it.
        user: Whom the camera knows; empty: nobody.
        password: The user's.
    """

    uri: str
    place: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """The URI with user and password: for FFmpeg, and for no message."""
        if not self.user:
            return self.uri
        return f"{STREAM}{quote(self.user, safe='')}:{quote(self.password, safe='')}@{self.bare.removeprefix(STREAM)}"

    @property
    def bare(self) -> str:
        """The URI without user and password."""
        parts = urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port. Raises StreamRefused where the address has none."""
        try:
            parts = urlsplit(self.uri)
            if parts.hostname:
                return parts.hostname, parts.port or PORT
        except ValueError:  # a port that is no number, brackets that are not closed
            pass
        raise StreamRefused(
            "the address has no host, or a port that is none", self.place, "write rtsp://host:port/path"
        )


def stream_of(source: Source) -> Stream:
    """The stream of a live source, with the user that its Secret names. Raises InvalidInput."""
    assert source.video is not None
    folder, place = secret_folder(source), f"spec.sources[{source.name}].video.uri"
    known = dict(os.environ) if folder is None else _secret(Path(folder), f"spec.sources[{source.name}].secretRef")
    if folder is not None and USERNAME not in known:
        raise InvalidInput(f"the Secret has no {USERNAME}", f"spec.sources[{source.name}].secretRef", "add it")
    return Stream(source.video.uri, place, known.get(USERNAME, ""), known.get(PASSWORD, ""))


def _secret(folder: Path, place: str) -> dict[str, str]:
    if not folder.is_dir():
        raise InvalidInput("the folder with the credentials does not exist", place, "check the secretRef of the source")
    known = (key for key in (USERNAME, PASSWORD) if (folder / key).is_file())
    return {key: (folder / key).read_text(errors="replace").strip() for key in known}  # the camera refuses other


def pictures(
    stream: Stream, every_seconds: float, seconds: float, patience: Patience = PATIENCE
) -> Generator[NDArray[np.uint8], None, None]:
    """The first picture of each interval, as `[H, W, 3]` BGR; a stream that breaks off is connected anew.

    Args:
        stream: What is watched.
        every_seconds: Length of an interval; the first begins with the first picture.
        seconds: How long it is watched from the first picture on.
        patience: How long a picture is waited for.

    Raises:
        StreamUnavailable: no picture came for a while.
        StreamRefused: the camera refuses the user, or what answers is none.
    """
    stream.endpoint  # noqa: B018  before FFmpeg makes something of it
    begun: float | None = None
    last, slot = time.monotonic(), -1
    while True:
        capture = _opened(stream, patience)
        try:
            while _usable(capture) and capture.grab():
                last = time.monotonic()
                begun = last if begun is None else begun
                if (now := math.floor((last - begun) / every_seconds)) <= slot:
                    continue
                read, pixels = capture.retrieve()
                if not read or last - begun >= seconds:
                    break
                slot = now
                yield np.asarray(pixels, np.uint8)
                if (slot + 1) * every_seconds >= seconds:
                    return
        finally:
            capture.release()
        if begun is not None and time.monotonic() - begun >= seconds:
            return
        fault = fault_of(stream, patience)
        if time.monotonic() - last >= patience.away or (begun is None and isinstance(fault, StreamRefused)):
            raise fault
        log.warning("%s; connecting anew", fault.message)
        time.sleep(patience.pause)


def _opened(stream: Stream, patience: Patience) -> cv2.VideoCapture:
    milliseconds = round(1000 * patience.picture)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    return cv2.VideoCapture(stream.address, cv2.CAP_FFMPEG, timeouts)


def _usable(capture: cv2.VideoCapture) -> bool:
    return 0 < capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) <= MAX_PIXELS


def fault_of(stream: Stream, patience: Patience = PATIENCE) -> StreamRefused | StreamUnavailable:
    """Why a stream gives no picture, by what answers there. Its words name the host, and neither path nor password."""
    host, port = stream.endpoint
    shown = f"{host}:{port}"
    network = f"check the camera, its address, and that the network lets this machine reach TCP port {port} there"
    try:
        with socket.create_connection((host, port), patience.answer) as connection:
            answer = _described(connection, stream, patience.answer)
    except OSError as error:
        words = error.strerror or str(error)
        return StreamUnavailable(f"the camera at {shown} cannot be reached: {words}", stream.place, network)
    if not answer:
        return StreamUnavailable(f"the camera at {shown} closes the connection", stream.place, network)
    status = STATUS.match(answer)
    if status is None:
        return StreamRefused(f"what answers at {shown} does not speak RTSP", stream.place, "check host and port")
    return _fault_by(int(status[1]), shown, stream)


def _described(connection: socket.socket, stream: Stream, seconds: float) -> bytes:
    """What the camera answers to DESCRIBE, once more with the user if it asks for one. Raises OSError."""
    head = f"DESCRIBE {stream.bare} RTSP/1.0\r\nAccept: application/sdp\r\nUser-Agent: fovea\r\nCSeq: "
    connection.sendall(f"{head}1\r\n\r\n".encode())
    answer = _answer(connection, seconds)
    status, shown = STATUS.match(answer), _authorization(stream, answer.decode(errors="replace"))
    if status is None or status[1] != b"401" or shown is None:
        return answer
    connection.sendall(f"{head}2\r\nAuthorization: {shown}\r\n\r\n".encode())
    return _answer(connection, seconds)


def _answer(connection: socket.socket, seconds: float) -> bytes:
    """An answer with its headers and its body, or what came of it. Raises OSError where nothing did."""
    until, answer, length = time.monotonic() + seconds, b"", 1
    while len(answer) < min(length, ANSWER_BYTES):
        connection.settimeout(max(until - time.monotonic(), 0.001))
        try:
            part = connection.recv(4096)
        except TimeoutError:
            if not answer:
                raise
            return answer
        answer += part
        headers, end, _ = answer.partition(b"\r\n\r\n")
        if not part or (b"\n" in answer and STATUS.match(answer) is None):
            return answer
        body = re.search(rb"^Content-Length:[ \t]*(\d{1,9})", headers, re.IGNORECASE | re.MULTILINE)
        length = len(headers + end) + (int(body[1]) if body else 0) if end else len(answer) + 1
    return answer


def _authorization(stream: Stream, answer: str) -> str | None:
    """What shows the camera the user, by Digest or else Basic, as FFmpeg does. None: nobody, or it asks for neither."""
    asked = [(scheme.lower(), _parameters(given)) for scheme, given in CHALLENGE.findall(answer)]
    given = next((each for scheme, each in asked if scheme == "digest" and each.get("algorithm", "MD5") == "MD5"), None)
    if not stream.user or not asked:
        return None
    if given is None:
        login = b64encode(f"{stream.user}:{stream.password}".encode()).decode()
        return f"Basic {login}" if any(scheme == "basic" for scheme, _ in asked) else None
    realm, nonce = given.get("realm", ""), given.get("nonce", "")
    shown = {"username": stream.user, "realm": realm, "nonce": nonce, "uri": stream.bare}
    shown |= {"opaque": given["opaque"]} if "opaque" in given else {}
    quality = ("00000001", token_hex(8), "auth") if "auth" in given.get("qop", "").split(",") else ()
    proof = _md5(stream.user, realm, stream.password), nonce, *quality, _md5("DESCRIBE", stream.bare)
    words = [f'{name}="{value}"' for name, value in (shown | {"response": _md5(*proof)}).items()]
    words += [f'nc={quality[0]}, cnonce="{quality[1]}", qop={quality[2]}'] if quality else []
    return f"Digest {', '.join(words)}"


def _parameters(challenge: str) -> dict[str, str]:
    parts = (part.partition("=") for part in parse_http_list(challenge))
    return {name.lower(): value.strip('"') for name, _, value in parts}


def _md5(*parts: str) -> str:
    return md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


def _fault_by(code: int, shown: str, stream: Stream) -> StreamRefused | StreamUnavailable:
    if code in (401, 403) and stream.user:
        words = f"the camera at {shown} gives no picture to the user of the Secret"
        return StreamRefused(words, stream.place, f"check {USERNAME} and {PASSWORD}, and what the user may see")
    if code in (401, 403):
        remedy = f"name a Secret with {USERNAME} and {PASSWORD} in secretRef"
        return StreamRefused(f"the camera at {shown} asks for a user and a password", stream.place, remedy)
    if code == 404:
        words = f"the camera at {shown} has no stream at this path now"
        return StreamUnavailable(words, stream.place, "check the path, and that the stream is turned on")
    if code == 200:
        words = f"the camera at {shown} answers, and sends no picture that can be read"
        return StreamUnavailable(words, stream.place, "check that it sends a video, such as H.264, H.265 or MJPEG")
    return StreamUnavailable(f"the camera at {shown} answers {code}", stream.place, "look into the camera's log")
