"""Sources on a real web server with TLS, whose authority is trusted by SSL_CERT_FILE alone."""

from __future__ import annotations

import hashlib
import io
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from dataset_support import Build, detection
from fovea_api.errors import FoveaError, InvalidInput
from fovea_store import StorePath
from fovea_trainer.data.sources import Limits, SourceUnavailable, download

SECRET = "token=hunter2"
NO_FILE = hashlib.sha256(b"").hexdigest()
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server.pem and server.key for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH")
    folder = tmp_path_factory.mktemp("pki")
    ca = ("-x509", *KEY, "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")
    server = (*KEY, "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signing = ("-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    for command in (
        ("req", *ca),
        ("req", *server),
        ("x509", *signing, "-extfile", "names", "-out", "server.pem"),
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


class Server:
    """Serves what a test puts into `answers`, by path."""

    def __init__(self, certificates: Path) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.served: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                outer.served.append(path)
                outer.answers.get(path, status(404))(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.root = f"https://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    monkeypatch.setenv("no_proxy", "localhost")
    started = Server(certificates)
    yield started
    started.close()


def content(data: bytes, length: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    """The data; with another length, the connection ends before the announced end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def broken_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"64\r\nhalf of it")


def packed(folder: Path, target: Path, suffix: str) -> bytes:
    """The folder as an archive of the kind that the suffix says."""
    if suffix == ".tar.zst":
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            archive.add(folder, ".")
        stream = pa.BufferOutputStream()
        with pa.CompressedOutputStream(stream, "zstd") as compressed:
            compressed.write(plain.getvalue())
        return bytes(stream.getvalue())
    format = {".zip": "zip", ".tar.gz": "gztar", ".tar.xz": "xztar"}[suffix]
    return Path(shutil.make_archive(str(target), format, folder)).read_bytes()


def spec_of(uri: str, data: bytes) -> dict[str, object]:
    source = {"name": "lab", "uri": uri, "format": "PascalVOC", "sha256": hashlib.sha256(data).hexdigest()}
    return {"task": "Detection", "sources": [source]}


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.zst"])
def test_an_archive_gives_the_version_that_its_folder_gives(
    suffix: str, server: Server, build: Build, voc: Path, tmp_path: Path
) -> None:
    data = packed(voc, tmp_path / "packed", suffix)
    server.answers[f"/data{suffix}"] = content(data)
    result = build(spec_of(f"{server.root}/data{suffix}?{SECRET}", data))
    file = tmp_path / f"local{suffix}"
    file.write_bytes(data)
    assert result.digest == build(detection(voc)).digest == build(spec_of(f"file://{file}", data)).digest
    made = StorePath.parse(result.artifact)
    assert f"{server.root}/data{suffix}" in (made / "manifest.json").read_text()
    for name in ("manifest.json", "report.html"):
        assert SECRET not in (made / name).read_text()


def test_redirects_within_https_are_followed(server: Server, tmp_path: Path) -> None:
    server.answers["/old.zip"] = status(302, Location="/new.zip")
    server.answers["/new.zip"] = content(b"words")
    download(f"{server.root}/old.zip", tmp_path / "a.zip", hashlib.sha256(b"words").hexdigest())
    assert (tmp_path / "a.zip").read_bytes() == b"words"


FAILURES = {
    "not there": (status(404), InvalidInput, "404 Not Found.*check the address"),
    "no login": (status(403), InvalidInput, "403 Forbidden.*needs no login"),
    "overloaded": (status(503), SourceUnavailable, "503.*try again later"),
    "too many": (status(429), SourceUnavailable, "429.*try again later"),
    "to http": (status(302, Location=f"http://other.test/a.zip?{SECRET}"), InvalidInput, "http://other.test/a.zip"),
    "to a file": (status(301, Location="file:///etc/passwd"), InvalidInput, "'file:///etc/passwd' is not allowed"),
    "in a circle": (status(302, Location="/a.zip"), InvalidInput, "302.*infinite loop"),
    "another file": (content(b"other"), InvalidInput, "the file's sha256 is .*correct sha256"),
    "cut off": (content(b"half of it", 100), SourceUnavailable, "the connection broke after 10 bytes.*try again"),
    "cut off in a chunk": (broken_chunks, SourceUnavailable, "the connection broke after .*try again"),
    "endless": (content(bytes(5000)), InvalidInput, "the file is larger than 1,000 bytes"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_download_leaves_no_file_and_says_what_to_do(case: str, server: Server, tmp_path: Path) -> None:
    answer, kind, words = FAILURES[case]
    server.answers["/a.zip"] = answer
    with pytest.raises(kind, match=words) as error:
        download(f"{server.root}/a.zip?{SECRET}", tmp_path / "a.zip", NO_FILE, Limits(bytes=1000))
    assert type(error.value) is kind
    assert f"{server.root}/a.zip" in str(error.value)
    assert SECRET not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_authority_is_no_passing_failure(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InvalidInput, match=r"cannot be trusted: unable to get local issuer.*SSL_CERT_FILE"):
        download(f"{server.root}/a.zip", tmp_path / "a.zip", NO_FILE)


def test_a_server_that_is_away_can_come_back(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(SourceUnavailable, match=r"cannot be reached: .*refused.*check the address and the network"):
        download(f"{server.root}/a.zip", tmp_path / "a.zip", NO_FILE)


def test_a_password_in_the_address_is_neither_sent_nor_shown(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="user and password in an address are not sent") as error:
        download(server.root.replace("//", "//me:hunter2@") + "/a.zip", tmp_path / "a.zip", NO_FILE)
    assert "hunter2" not in str(error.value)
    assert server.served == []


def test_a_file_that_cannot_be_unpacked_is_not_even_fetched(server: Server, build: Build) -> None:
    with pytest.raises(InvalidInput, match=r"get: the source is a file, but no archive.*\.zip, \.tar"):
        build(spec_of(f"{server.root}/get?name=a.zip", b""))
    assert server.served == []


def test_a_hostile_archive_is_named_by_its_address(server: Server, build: Build, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("images")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(member)
    data = (tmp_path / "a.tar.gz").read_bytes()
    server.answers["/a.tar.gz"] = content(data)
    with pytest.raises(FoveaError, match="is a link") as error:
        build(spec_of(f"{server.root}/a.tar.gz?{SECRET}", data))
    assert error.value.location == f"{server.root}/a.tar.gz"
