"""A client of OCI registries, by the distribution specification (opencontainers/distribution-spec 1.1).

oras, the library that there is, does not fit into a pod that serves: it waits without a limit, tries again for minutes
whatever the error, verifies no digest, and has to be told in advance how a registry authenticates.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
from fovea_api.errors import CorruptData, InvalidInput
from pydantic import JsonValue

from fovea_store.atomic import COPY_CHUNK_BYTES
from fovea_store.errors import AccessDenied, NotFound, StoreFull, StoreUnavailable
from fovea_store.filesystems import AUTH_CONFIG, CONNECT_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS

PLAIN_HTTP = "FOVEA_PLAIN_HTTP_REGISTRIES"
"""Variable: registries (host:port, comma-separated) that are asked without TLS, beside those of this machine itself."""
TIMEOUT_SECONDS = (CONNECT_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS)
"""Until a connection is there, and between two parts of an answer."""
HELPER_SECONDS = 60.0
"""That a program which keeps Docker's credentials may take; it may ask its user."""
MAX_MANIFEST_BYTES = 4 << 20
"""Of a manifest; registries take no larger ones."""
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_REFERENCE = re.compile(
    r"(?P<host>[a-zA-Z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?(?:/(?P<path>.+))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry.

    Args:
        host: Of the registry, with its port.
        repository: Its name there.
        name: A tag, or the digest of a manifest.
    """

    host: str
    repository: str
    name: str

    @classmethod
    def parse(cls, uri: str) -> tuple[Reference, str]:
        """The image of `oci://host/repository:tag/path` (or `@sha256:…`), and the path in it. Raises InvalidInput."""
        match = _REFERENCE.fullmatch(uri.removeprefix("oci://"))
        name = match and (match["digest"] or match["tag"])
        if not match or not name:
            raise InvalidInput(
                "this names no image", uri, "write oci://registry/repository:tag or oci://registry/repository@sha256:…"
            )
        return cls(match["host"], match["repository"], name), match["path"] or ""

    @property
    def pinned(self) -> bool:
        """Whether it is a digest: what it names never changes."""
        return self.name.startswith("sha256:")

    def at(self, digest: str) -> Reference:
        """The image with this digest in the same repository."""
        return Reference(self.host, self.repository, digest)

    @property
    def uri(self) -> str:
        return f"oci://{self.host}/{self.repository}{'@' if self.pinned else ':'}{self.name}"


class Registry:
    """What is asked of one registry. Connections are kept; one object is used by one thread at a time.

    Args:
        host: Of the registry, with its port.
        auth_config: Content of a Docker configuration. None: that of the environment, else the user's own.
    """

    def __init__(self, host: str, auth_config: str | None = None) -> None:
        self._host = host
        self._root = f"{'http' if _is_plain(host) else 'https'}://{host}"
        self._session = requests.Session()
        self._session.trust_env = True  # proxies and certificates; a ~/.netrc is not read, since `auth` is set
        self._session.auth = _Anonymous()
        self._credentials = _credentials(host, auth_config)
        self._authorization: dict[str, str] = {}

    def manifest(self, reference: Reference) -> tuple[str, dict[str, JsonValue]] | None:
        """Digest and content of an image's manifest; None: there is none.

        Raises:
            CorruptData: it does not have the digest that it was asked for by.
        """
        answer = self._ask("GET", reference, f"manifests/{reference.name}", {"Accept": MANIFEST_TYPE})
        if answer.status_code == 404:
            return None
        content = _checked(answer, reference).content
        digest = digest_of(content)
        if reference.pinned and digest != reference.name:
            raise CorruptData(f"the registry gave a manifest with the digest {digest}", reference.uri)
        try:
            parsed = json.loads(content) if len(content) <= MAX_MANIFEST_BYTES else None
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict) or parsed.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:
            raise InvalidInput("this is no image of a bundle", reference.uri, "push one: fovea push BUNDLE oci://…")
        return digest, parsed

    def put_manifest(self, reference: Reference, content: bytes) -> str:
        """Names an image, all blobs of which are there; gives its digest."""
        path, headers = f"manifests/{reference.name}", {"Content-Type": MANIFEST_TYPE}
        _checked(self._ask("PUT", reference, path, headers, content), reference)
        return digest_of(content)

    def blob(self, reference: Reference, digest: str, size: int, target: BinaryIO) -> None:
        """Writes a blob into a file. Raises CorruptData where it does not have this digest and size."""
        seen, count = hashlib.sha256(), 0
        with self._ask("GET", reference, f"blobs/{digest}", stream=True) as answer, _reported(reference):
            for chunk in _checked(answer, reference).iter_content(COPY_CHUNK_BYTES):
                count += len(chunk)
                if count > size:
                    raise CorruptData(f"the registry gave a blob of more than {size} bytes", reference.uri)
                seen.update(chunk)
                target.write(chunk)
        if f"sha256:{seen.hexdigest()}" != digest:
            raise CorruptData(f"the registry gave a blob with the digest sha256:{seen.hexdigest()}", reference.uri)

    def has_blob(self, reference: Reference, digest: str) -> bool:
        answer = self._ask("HEAD", reference, f"blobs/{digest}")
        return answer.status_code != 404 and bool(_checked(answer, reference))

    def put_blob(self, reference: Reference, digest: str, content: BinaryIO) -> None:
        """Uploads a blob, read from the beginning of the file."""
        begun = _checked(self._ask("POST", reference, "blobs/uploads/", {"Content-Length": "0"}), reference)
        place = urljoin(begun.url, begun.headers.get("Location", ""))
        url = f"{place}{'&' if urlsplit(place).query else '?'}digest={digest}"
        content.seek(0)
        headers = {"Content-Type": "application/octet-stream", **self._authorization_for(url)}
        with _reported(reference):
            done = self._session.put(url, data=content, headers=headers, timeout=TIMEOUT_SECONDS)
        _checked(done, reference)

    def _authorization_for(self, url: str) -> Mapping[str, str]:
        """Uploads may go to another host, to which our credentials are of no concern."""
        return self._authorization if urlsplit(url).netloc == self._host else {}

    def _ask(
        self,
        method: str,
        reference: Reference,
        path: str,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        *,
        stream: bool = False,
    ) -> requests.Response:
        """The answer of the registry; where it asks who we are, it is told and asked again."""
        url = f"{self._root}/v2/{reference.repository}/{path}"

        def send() -> requests.Response:
            every = {**(headers or {}), **self._authorization}
            with _reported(reference):
                return self._session.request(
                    method, url, headers=every, data=data, stream=stream, timeout=TIMEOUT_SECONDS
                )

        answer = send()
        if answer.status_code == 401:
            self._authorization = self._answer_to(answer.headers.get("WWW-Authenticate", ""), reference, method)
            answer = send()
        return answer

    def _answer_to(self, challenge: str, reference: Reference, method: str) -> dict[str, str]:
        """The header that a challenge (RFC 7235) asks for: a password, or a token of the server that it names."""
        scheme, _, rest = challenge.partition(" ")
        parts = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() == "basic" and self._credentials is not None:
            return {"Authorization": f"Basic {self._credentials}"}
        if scheme.lower() != "bearer" or "realm" not in parts:
            return {}
        actions = "pull" if method in ("GET", "HEAD") else "pull,push"
        asked = {"scope": parts.get("scope") or f"repository:{reference.repository}:{actions}"}
        if "service" in parts:
            asked["service"] = parts["service"]
        realm = urlsplit(parts["realm"])
        if realm.scheme != "https" and not _is_plain(realm.netloc):
            raise InvalidInput(f"the registry wants credentials sent to {parts['realm']}, without TLS", reference.uri)
        headers = {"Authorization": f"Basic {self._credentials}"} if self._credentials is not None else {}
        with _reported(reference):
            answer = self._session.get(parts["realm"], params=asked, headers=headers, timeout=TIMEOUT_SECONDS)
            given = _checked(answer, reference).json()
        return {"Authorization": f"Bearer {given.get('token') or given.get('access_token')}"}


class _Anonymous(requests.auth.AuthBase):
    """Leaves a request as it is: without one, requests takes passwords from ~/.netrc, over our own header."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


@contextmanager
def _reported(reference: Reference) -> Iterator[None]:
    """Turns what requests raises into StoreUnavailable."""
    try:
        yield
    except requests.RequestException as error:
        remedy = f"check the registry; one without TLS is named in {PLAIN_HTTP}"
        raise StoreUnavailable(f"the registry does not answer: {error}", reference.uri, remedy) from error


def digest_of(content: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _checked(answer: requests.Response, reference: Reference) -> requests.Response:
    """The answer, where it is a success. Raises NotFound, AccessDenied, StoreFull, StoreUnavailable, InvalidInput."""
    if answer.ok:
        return answer
    code, words = answer.status_code, _words_of(answer)
    if code in (401, 403):
        remedy = f"docker login {reference.host}, or give {AUTH_CONFIG} in the store's Secret"
        raise AccessDenied(f"the registry refuses the credentials{words}", reference.uri, remedy)
    if code == 404:
        raise NotFound(f"there is nothing{words}", reference.uri, "check repository and tag")
    if code in (413, 507):
        raise StoreFull(f"the registry takes no more{words}", reference.uri, "make room, or raise its limit")
    if code == 429 or code >= 500:
        raise StoreUnavailable(f"the registry answered {code}{words}", reference.uri, "check the registry")
    raise InvalidInput(f"the registry answered {code}{words}", reference.uri)


def _words_of(answer: requests.Response) -> str:
    """What a registry says of an error."""
    try:
        texts = [str(each.get("message") or each.get("code")) for each in answer.json()["errors"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f": {'; '.join(texts)[:500]}"


def _is_plain(host: str) -> bool:
    """Whether a registry is asked without TLS: on this machine, or where somebody has said so."""
    name = urlsplit(f"//{host}").hostname or ""
    if host in {each.strip() for each in os.environ.get(PLAIN_HTTP, "").split(",")}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _credentials(host: str, auth_config: str | None) -> str | None:
    """User and password in base64, as Docker keeps them; None: nobody has logged in."""
    file = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    given = auth_config if auth_config is not None else os.environ.get(AUTH_CONFIG)
    if given is None and not file.is_file():
        return None
    try:
        config = json.loads(given if given is not None else file.read_text())
        helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
        entry = config.get("auths", {}).get(host, {})
    except (ValueError, AttributeError) as error:
        place = AUTH_CONFIG if given is not None else str(file)
        raise InvalidInput(f"this is no Docker configuration: {error}", place, "write it by docker login") from error
    if entry.get("auth"):
        return str(entry["auth"])
    if entry.get("username"):
        return base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
    return _of_helper(helper, host) if helper else None


def _of_helper(name: str, host: str) -> str | None:
    """What a `docker-credential-…` program keeps for a registry."""
    command = [f"docker-credential-{name}", "get"]
    try:
        done = subprocess.run(command, input=host, capture_output=True, text=True, timeout=HELPER_SECONDS)
        known = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if "Secret" not in known:
        return None
    return base64.b64encode(f"{known['Username']}:{known['Secret']}".encode()).decode()
