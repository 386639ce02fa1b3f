"""Where images come from: folders in any store, archives, files over https, programs. Gives the files of each source.

Archives and downloads are unpacked below the work folder; folders in a store are read where they lie. A pod runs the
programs before the build, which finds in a folder what each has written.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import shutil
import ssl
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from fovea_api.dataset import STREAM, Format, Source
from fovea_api.errors import InvalidInput, Recoverable
from fovea_store import NotFound, StorePath
from fovea_store.errors import explained
from fovea_store.filesystems import split_uri

from fovea_trainer.data.formats import Tree

SECRETS_ROOT = "FOVEA_SECRETS_ROOT"
"""Environment variable: the folder in which a pod finds the Secrets of its sources, each under its name."""
GENERATED_ROOT = "FOVEA_GENERATED_ROOT"
"""Environment variable: the folder in which a pod finds what the programs of its sources wrote, each under the source's
name."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tar.zst")
UTF_8 = 1 << 11
"""Flag of a ZIP member whose name is in UTF-8."""
COPY_CHUNK_BYTES = 1 << 20
DOWNLOAD_TIMEOUT_SECONDS = 60.0
"""Of one read; a server that is silent for longer is given up."""
WRONG_DIGEST = "check the file, or correct sha256"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may unpack to. Beyond it is taken for a bomb."""

    files: int = 5_000_000
    bytes: int = 2 << 40
    ratio: int = 100
    """Unpacked bytes for each packed one, once `ratio_from` bytes are reached. Images hardly shrink."""
    ratio_from: int = 256 << 20


LIMITS = Limits()


class SourceUnavailable(Recoverable):
    """A web server does not answer, or broke off."""


def open_source(source: Source, work: Path, limits: Limits = LIMITS) -> Tree:
    """The files of a source. `work` is an empty or half-filled folder for what must be unpacked.

    Raises:
        InvalidInput: nothing is there, a digest differs, or an archive is broken or hostile.
        Recoverable: the store or server does not answer.
    """
    work.mkdir(parents=True, exist_ok=True)
    shown = without_secrets(source.uri or "")
    root = StorePath.parse(str(_downloaded(source, work, limits))) if is_download(source) else source_path(source)
    if root.is_file():
        root = _single_file(root, source, work, limits)
    elif source.sha256 is not None:
        raise InvalidInput("sha256 is given, but the source is a folder", shown, "remove sha256 or give an archive")
    try:
        tree = Tree.of(root)
    except NotFound:
        if source.layout != Format.CAPTURES:
            raise
        tree = Tree(root)
    if not tree.files and source.generator is not None:
        remedy = "let it write its files, not hidden ones, to the folder that $FOVEA_OUTPUT names"
        raise InvalidInput("the program has written nothing", program_field(source), remedy)
    if not tree.files and source.layout != Format.CAPTURES:  # nothing is captured yet
        raise InvalidInput("the source is empty", shown, "check the path")
    if source.layout == Format.IDX and any(path.endswith(".gz") for path in tree.files):
        return _unpack_gzip(tree, work / "plain", limits)
    return tree


def is_download(source: Source) -> bool:
    """Whether the source is a file that is fetched from a web server."""
    return source.uri is not None and source.uri.startswith("https://")


def source_path(source: Source) -> StorePath:
    """Where a source lies that is in a store, or was written by its program.

    Raises InvalidInput: its program was not run, or has written links to other places.
    """
    if source.generator is not None:
        return _written(source)
    assert source.location is not None
    return StorePath.parse(source.location, secret_folder(source))


def without_secrets(uri: str) -> str:
    """The URI as messages and reports show it: without user and password; of web and streams, also without query
    (signatures) and fragment, which elsewhere are part of a name."""
    if not uri.startswith(("http://", "https://", STREAM)):
        scheme, rest = split_uri(uri)
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if scheme else uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _written(source: Source) -> StorePath:
    """The folder that a source's program has written in this pod.

    The program is not trusted with what the build may read: a link may not lead the build there.
    """
    root = os.environ.get(GENERATED_ROOT)
    if root is None:
        raise InvalidInput(
            "programs are run on a cluster only",
            program_field(source),
            f"run it yourself, with FOVEA_OUTPUT set to a folder, and give that: --source {source.name}=FOLDER, or the "
            f"annotation local.fovea.dev/{source.name} of the Dataset",
        )
    inside = os.path.realpath(os.path.join(root, source.name))
    try:
        outside = next((link for link in _links(inside) if not os.path.realpath(link).startswith(f"{inside}/")), None)
    except OSError as error:
        message = f"what the program has written cannot be read: {error.strerror}"
        raise InvalidInput(message, program_field(source), "let it write to folders that the build may read") from error
    if outside is not None:
        message = f"the program has written a link that leads out of its folder: {os.path.relpath(outside, inside)}"
        raise InvalidInput(message, program_field(source), "let it write the file itself")
    return StorePath.parse(inside)


def _links(folder: str) -> Iterator[str]:
    """The links below a folder, however deep it is."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def program_field(source: Source) -> str:
    """The field of the program that writes a source, as errors name it."""
    return f"spec.sources[{source.name}].generator"


def secret_folder(source: Source) -> str | None:
    """Where the Secret of a source lies, each key a file. None: what it would say is in the environment."""
    if source.secret_ref is None:
        return None
    root = os.environ.get(SECRETS_ROOT)
    # In a local run, secretRef names nothing: the user's own credentials are in the environment.
    return str(Path(root) / source.secret_ref.name) if root else None


def _downloaded(source: Source, work: Path, limits: Limits) -> Path:
    """The file of a source on a web server; what an earlier attempt fetched is taken."""
    assert source.uri is not None
    assert source.sha256 is not None, "the API requires it"
    file = work / urlsplit(source.uri).path.rsplit("/", 1)[-1]
    _refuse_other_files(file.name, without_secrets(source.uri))
    if not file.exists() or sha256_of(file) != source.sha256:
        download(source.uri, file, source.sha256, limits)
    return file


def _single_file(file: StorePath, source: Source, work: Path, limits: Limits) -> StorePath:
    shown = without_secrets(source.uri or "")
    _refuse_other_files(file.name, shown)
    local = file.local_path() if file.is_local else work / file.name
    if not file.is_local:
        file.download(local)
    if source.sha256 is not None and (actual := sha256_of(local)) != source.sha256:
        raise InvalidInput(f"the file's sha256 is {actual}, not {source.sha256}", shown, WRONG_DIGEST)
    target = work / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    unpack(local, target, limits, shown)
    return StorePath.parse(str(target))


def _refuse_other_files(name: str, shown: str) -> None:
    if not name.lower().endswith(ARCHIVES):
        raise InvalidInput(
            "the source is a file, but no archive that can be unpacked",
            shown,
            f"give a folder or {', '.join(ARCHIVES)}",
        )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent from https to anything else, such as a file."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise InvalidInput(
                f"the server redirects to {without_secrets(newurl)}",
                without_secrets(req.full_url),
                "give the final https:// address",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(uri: str, file: Path, sha256: str, limits: Limits = LIMITS) -> None:
    """Fetches a file over https and checks its digest; `file` appears only when it is whole and right.

    The server's certificate is checked against the system's authorities, or those of SSL_CERT_FILE.

    Raises:
        InvalidInput: the server refuses, is not who it says, or the file is another or too large.
        SourceUnavailable: the server does not answer, or the connection broke.
        StoreFull: the disk is full.
    """
    shown, digest, temporary = without_secrets(uri), hashlib.sha256(), file.with_name(f".{file.name}.part")
    try:
        with _opened(uri, shown) as response, temporary.open("wb") as target:
            for chunk in _received(response, shown, limits):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            raise InvalidInput(f"the file's sha256 is {digest.hexdigest()}, not {sha256}", shown, WRONG_DIGEST)
        temporary.replace(file)
    except OSError as error:
        raise explained(error, str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _opened(uri: str, shown: str) -> HTTPResponse:
    if "@" in urlsplit(uri).netloc:
        raise InvalidInput(
            "user and password in an address are not sent", shown, "give a signed address, or copy the file to a store"
        )
    try:
        response: HTTPResponse = urllib.request.build_opener(_HttpsOnly).open(uri, timeout=DOWNLOAD_TIMEOUT_SECONDS)
        return response
    except urllib.error.HTTPError as error:
        message = f"the server answers {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 425, 429):
            raise SourceUnavailable(message, shown, "try again later") from None
        remedy = "give an address that needs no login" if error.code in (401, 403) else "check the address"
        raise InvalidInput(message, shown, remedy) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            remedy = "let SSL_CERT_FILE name a file with the certificate of its authority"
            raise InvalidInput(f"the server cannot be trusted: {reason.verify_message}", shown, remedy) from None
        remedy = "check the address and the network"
        raise SourceUnavailable(f"the server cannot be reached: {reason}", shown, remedy) from error


def _received(response: HTTPResponse, shown: str, limits: Limits) -> Iterator[bytes]:
    """The body in pieces. A body that is shorter than the server said ends in an error, too."""
    length, done = int(response.headers.get("Content-Length", -1)), 0
    try:
        while chunk := response.read(COPY_CHUNK_BYTES):
            done += len(chunk)
            if done > limits.bytes:
                raise InvalidInput(f"the file is larger than {limits.bytes:,} bytes", shown, "check the address")
            yield chunk
    except (OSError, HTTPException) as error:
        raise _broken(done, shown) from error
    if done < length:
        raise _broken(done, shown)


def _broken(done: int, shown: str) -> SourceUnavailable:
    return SourceUnavailable(f"the connection broke after {done:,} bytes", shown, "try again; check the network")


# --- Archives -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Meter:
    """Counts what is unpacked and stops at the limits."""

    archive: Path
    limits: Limits
    shown: str
    files: int = 0
    bytes: int = 0

    def file(self) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise self._bomb(f"more than {self.limits.files:,} files")

    def add(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limits.bytes:
            raise self._bomb(f"more than {self.limits.bytes:,} bytes")
        packed = max(1, self.archive.stat().st_size)
        if self.bytes > self.limits.ratio_from and self.bytes > self.limits.ratio * packed:
            raise self._bomb(f"more than {self.limits.ratio} times its size")

    def _bomb(self, what: str) -> InvalidInput:
        return InvalidInput(f"the archive unpacks to {what}", self.shown, "check where it comes from")


def unpack(archive: Path, target: Path, limits: Limits = LIMITS, shown: str | None = None) -> None:
    """Unpacks the ordinary files of an archive. Links, devices and paths that leave `target` are refused.

    Args:
        archive: A local file with one of the ARCHIVES' suffixes.
        target: Folder that is filled.
        limits: Beyond which the archive is refused.
        shown: What errors call the archive; absent: its name.
    """
    shown = shown or archive.name
    meter = _Meter(archive, limits, shown)
    is_zip = archive.name.lower().endswith(".zip")
    again = "fetch or pack it again"
    try:
        for name, content in _zip_members(archive, shown) if is_zip else _tar_members(archive, shown):
            meter.file()
            path = _safe(target, name, shown)
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("wb") as file:
                while chunk := content.read(COPY_CHUNK_BYTES):
                    meter.add(len(chunk))
                    file.write(chunk)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        pa.ArrowException,
        NotImplementedError,
    ) as error:
        raise InvalidInput(f"the archive is broken: {error}", shown, again) from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise InvalidInput(f"the archive is broken: {error.filename} is both file and folder", shown, again) from None
    except OSError as error:
        # Broken gzip and zstd streams surface as OSError, as does a full disk.
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidInput("the archive has a member with too long a name", shown, "pack it again") from None
        if error.errno is not None:
            raise explained(error, str(target)) from error
        raise InvalidInput(f"the archive is broken: {error}", shown, again) from error
    target.mkdir(parents=True, exist_ok=True)


def _safe(target: Path, name: str, shown: str) -> Path:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or ":" in parts[0]:
        raise InvalidInput(
            f"the member {name!r} would be written outside of the folder",
            shown,
            "pack it with relative paths; check where it comes from",
        )
    return target.joinpath(*(part for part in parts if part not in ("", ".")))


def _zip_members(archive: Path, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if member.flag_bits & 1:
                raise InvalidInput(f"the member {member.filename!r} is encrypted", shown, "pack it without a password")
            mode = member.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise _link(member.filename, shown)
            if not member.is_dir():
                yield _written_name(member), file.open(member)


def _written_name(member: zipfile.ZipInfo) -> str:
    """The name of a member, which is in UTF-8 also where the archive does not say so: so macOS packs."""
    if member.flag_bits & UTF_8:
        return member.filename
    try:
        return member.filename.encode("cp437").decode()
    except UnicodeError:
        return member.filename


def _tar_members(archive: Path, shown: str) -> Iterator[tuple[str, IO[bytes]]]:
    with contextlib.ExitStack() as stack:
        if archive.name.lower().endswith(".zst"):
            stream = stack.enter_context(pa.input_stream(str(archive), compression="zstd"))
            file = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))
        else:
            file = stack.enter_context(tarfile.open(archive, mode="r|*"))
        for member in file:
            if member.issym() or member.islnk():
                raise _link(member.name, shown)
            if member.isdir():
                continue
            content = file.extractfile(member) if member.isreg() else None
            if content is None:
                raise InvalidInput(f"the member {member.name!r} is no ordinary file", shown, "remove it")
            yield member.name, content


def _link(name: str, shown: str) -> InvalidInput:
    return InvalidInput(f"the member {name!r} is a link", shown, "pack the file that it points to")


def _unpack_gzip(tree: Tree, target: Path, limits: Limits) -> Tree:
    """A local tree with the `.gz` files unpacked and the others copied."""
    shutil.rmtree(target, ignore_errors=True)
    for path, size in tree.files.items():
        plain = target / path.removesuffix(".gz")
        plain.parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith(".gz"):
            (tree / path).download(plain)
            continue
        written = 0
        try:
            with (
                (tree / path).open() as packed,
                gzip.GzipFile(fileobj=packed) as source,
                plain.open("wb") as file,
            ):
                while chunk := source.read(COPY_CHUNK_BYTES):
                    written += len(chunk)
                    # Raw pixels with black grounds shrink well; gzip's own limit is about a thousandth.
                    if written > max(limits.ratio_from, limits.ratio * size):
                        raise InvalidInput(f"the file unpacks to more than {limits.ratio} times its size", path)
                    file.write(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInput(f"the file cannot be unpacked: {error}", path, "fetch it again") from error
    return Tree.of(StorePath.parse(str(target)))
