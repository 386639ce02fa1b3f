"""The file system behind a URI: where its path is in it, and how it is opened with which credentials."""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from fovea_api.errors import InvalidInput
from pyarrow import fs

PVC_ROOT = "FOVEA_PVC_ROOT"
"""Environment variable: the folder in which a pod finds its claims, each under its name."""
AUTH_CONFIG = "DOCKER_AUTH_CONFIG"
"""Environment variable, and key of the store's Secret: the content of a Docker configuration, for `oci://`."""
CONNECT_TIMEOUT_SECONDS = 10.0
"""Of an object store; a wrong endpoint should be reported soon."""
REQUEST_TIMEOUT_SECONDS = 120.0
"""Of one request; parts of large objects on slow links take a while."""


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def split_uri(uri: str) -> tuple[str, str]:
    """The scheme of a URI and what follows; for a local path no scheme and the path.

    All signs behind the scheme are part of the path: folders may be called `#1`, `100%` or `a?`.
    """
    match = _SCHEME.match(uri)
    return (match[1], uri[match.end() :]) if match else ("", uri)


def locate(uri: str) -> str:
    """What the file system calls the path of a URI."""
    scheme, rest = split_uri(uri)
    if not scheme:
        return uri
    root, _, path = rest.partition("/")
    if any(part == ".." for part in rest.split("/")):
        raise InvalidInput("the path contains '..'", uri, "write it without")
    if scheme == "file":
        return f"/{path}"
    if scheme == "oci":
        from fovea_store.registry import Reference  # which imports requests, and few need it

        Reference.parse(uri)
        return rest.rstrip("/")
    if not root:
        raise InvalidInput(f"the {'claim' if scheme == 'pvc' else 'bucket'} is missing", uri, f"{scheme}://name/path")
    if scheme == "pvc":
        claims = os.environ.get(PVC_ROOT)
        if not claims:
            raise InvalidInput(
                "a claim can be read in a pod only",
                uri,
                f"give a local path, or set {PVC_ROOT} to a folder of claims",
            )
        return f"{claims.rstrip('/')}/{root}/{path}".rstrip("/")
    return f"{root}/{path}".rstrip("/")


@cache
def filesystem(scheme: str, credentials: str | None) -> fs.FileSystem:
    """The file system of a scheme, opened once a process. `credentials`: see `StorePath`."""
    if scheme == "s3":
        return _s3(_settings(credentials))
    if scheme == "oci":
        from fovea_store.images import ImageFiles

        given = _settings(credentials).get(AUTH_CONFIG, "{}") if credentials is not None else None
        return fs.PyFileSystem(ImageFiles(given))
    if scheme == "gs":
        # Application default credentials; a mounted key file is named by GOOGLE_APPLICATION_CREDENTIALS.
        return fs.GcsFileSystem()
    return fs.LocalFileSystem()


def _settings(credentials: str | None) -> dict[str, str]:
    """The AWS_* settings: the environment's, or those of a mounted Secret's files alone."""
    if credentials is None:
        return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    folder = Path(credentials)
    if not folder.is_dir():
        raise InvalidInput(
            "the folder with the credentials does not exist", credentials, "check the secretRef of the source"
        )
    # A key that the Secret lacks is not taken from the environment: that one is of another store.
    # One that is no text is none of ours, or is refused by the store.
    return {file.name: file.read_text(errors="replace").strip() for file in folder.iterdir() if file.is_file()}


def _s3(settings: dict[str, str]) -> fs.S3FileSystem:
    endpoint = urlsplit(settings.get("AWS_ENDPOINT_URL_S3") or settings.get("AWS_ENDPOINT_URL") or "")
    # Path-style addressing (bucket in the path) is what arrow does whenever an endpoint is given.
    return fs.S3FileSystem(
        access_key=settings.get("AWS_ACCESS_KEY_ID"),
        secret_key=settings.get("AWS_SECRET_ACCESS_KEY"),
        session_token=settings.get("AWS_SESSION_TOKEN"),
        region=settings.get("AWS_REGION") or settings.get("AWS_DEFAULT_REGION") or "us-east-1",
        scheme=endpoint.scheme or "https",
        endpoint_override=endpoint.netloc or None,
        force_virtual_addressing=False,
        tls_ca_file_path=_certificates(settings.get("AWS_CA_BUNDLE")),
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        request_timeout=REQUEST_TIMEOUT_SECONDS,
    )


def _certificates(bundle: str | None) -> str | None:
    """Path of a file of certificates; a Secret may hold the certificates themselves."""
    if not bundle or not bundle.lstrip().startswith("-----BEGIN"):
        return bundle or None
    handle, path = tempfile.mkstemp(prefix="fovea-ca-", suffix=".pem")
    with os.fdopen(handle, "w") as file:
        file.write(bundle)
    return path
