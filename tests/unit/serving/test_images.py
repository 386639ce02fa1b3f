"""Bundles as images in a real registry (distribution): pushed, read, pulled and served from there."""

from __future__ import annotations

import base64
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fovea_api.errors import CorruptData, InvalidInput
from fovea_api.gateway import GatewayConfig
from fovea_api.modeldeployment import ServedModel
from fovea_cli.main import cli
from fovea_serving.bundle import bundle_digest, load_bundle, read_manifest
from fovea_serving.fetch import fetch_bundle
from fovea_serving.gateway.configuration import Follower, Surroundings
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.runtimes.ray_serve import ApplicationArgs, _fetch
from fovea_store import AccessDenied, NotFound, StorePath, StoreUnavailable
from fovea_store.filesystems import filesystem
from fovea_store.registry import Reference, Registry, _is_plain

from tests.registry import running

SERVER = shutil.which("registry")
PASSWORDS = "user:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"  # bcrypt of "secret"
Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a registry over a folder, with the authentication given; its address."""
    if SERVER is None:
        pytest.skip("registry is not on the PATH (devcluster/devcluster build registry)")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    filesystem.cache_clear()  # it remembers what tags name, and credentials
    with ExitStack() as servers:

        def run(**auth: object) -> str:
            return servers.enter_context(running(str(SERVER), "127.0.0.1", tmp_path, **auth))

        yield run
        filesystem.cache_clear()


def fovea(*words: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="fovea")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def push(bundle: Path, target: str) -> str:
    """The URI of the image by its digest."""
    done = fovea("push", bundle, target, "-o", "json")
    assert done.exit_code == 0, done.output
    pushed = json.loads(done.stdout)
    assert pushed["bundle"] == load_bundle(bundle).digest
    return str(pushed["image"])


def log_in(tmp_path: Path, address: str, password: str) -> str:
    """What `docker login` writes; its content."""
    auth = base64.b64encode(f"user:{password}".encode()).decode()
    content = json.dumps({"auths": {address: {"auth": auth}}})
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(content)
    return content


def another(bundle: Path, folder: Path) -> Path:
    """The same bundle with classes in another order: every file has the same size."""
    copy = Path(shutil.copytree(bundle, folder / "bundle"))
    text = (copy / "bundle.yaml").read_text()
    (copy / "bundle.yaml").write_text(text.replace("- red\n- green", "- green\n- red"))
    return copy.rename(folder / bundle_digest(read_manifest(copy / "bundle.yaml")))


def test_a_bundle_is_pushed_and_pulled_with_every_digest(start: Start, signed: Path, tmp_path: Path) -> None:
    tag = f"oci://{start()}/team/cells:v1"
    image = push(signed, tag)
    assert image.startswith(tag.removesuffix(":v1") + "@sha256:")
    pulled = fovea("pull", tag, "--to", tmp_path / "copy", "-o", "json")
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["source"] == image
    assert json.loads(pulled.stdout)["digest"] == signed.name
    files = {path.relative_to(signed): path.read_bytes() for path in signed.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "copy"): path.read_bytes()
            for path in (tmp_path / "copy").rglob("*") if path.is_file()} == files  # fmt: skip
    assert Path("model.sig") in files
    time.sleep(1.1)  # images know whole seconds
    assert push(signed, tag) == image, "pushing twice changes nothing"
    verified = fovea("verify", tag)
    assert (verified.exit_code, signed.name in verified.stdout) == (0, True), verified.output
    missing = fovea("pull", tag.replace(":v1", ":v2"))
    assert (missing.exit_code, "there is no such image" in missing.stderr) == (1, True), missing.output


def test_the_image_holds_the_files_below_models_in_plain_layers(start: Start, bundle: Path, tmp_path: Path) -> None:
    """By what a container runtime goes by: the manifest, its config's diff_ids, and layers on top of each other."""
    address = start()
    image = push(bundle, f"oci://{address}/cells:v1")
    reference, _ = Reference.parse(image)
    registry = Registry(address)
    found = registry.manifest(reference)
    assert found is not None
    _, manifest = found
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"

    def blob(descriptor: dict[str, Any], name: str) -> Path:
        with (tmp_path / name).open("wb") as file:
            registry.blob(reference, descriptor["digest"], descriptor["size"], file)
        return tmp_path / name

    config = json.loads(blob(manifest["config"], "config").read_bytes())
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
        with tarfile.open(blob(layer, "layer")) as archive:
            archive.extractall(tmp_path / "root", filter="data")
    assert load_bundle(tmp_path / "root" / "models").digest == bundle.name
    assert StorePath.parse(f"{image}/evaluation/test.json").read_text() == "{}"
    assert StorePath.parse(image).folders() == ["evaluation"]
    assert not StorePath.parse(f"{image}/evaluation/train.json").exists()
    with pytest.raises(InvalidInput, match="fovea push"):
        StorePath.parse(f"{image}/added.txt").write_text("more")


async def test_a_deployment_serves_a_bundle_from_a_registry(
    start: Start, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Gateway and replica read it from there, and each sees the signature."""
    image = push(signed, f"oci://{start()}/cells:v1")
    assert ServedModel(uri=image).uri == image
    args = ApplicationArgs.model_validate({"bundle": image, "publicKey": str(keys[1])})
    assert _fetch(args, tmp_path / "replica").digest == signed.name
    version = {"name": "a", "role": "Stable", "weight": 100, "runtime": "RayServe", "bundle": image,
               "address": "http://127.0.0.1:9", "publicKey": str(keys[1])}  # fmt: skip
    content = {"namespace": "team", "deployment": "cells", "authentication": {"type": "None"}, "versions": [version]}
    gateway = Gateway()
    follower = Follower(gateway, Surroundings())
    read = follower._read(GatewayConfig.model_validate(content).versions[0])
    assert read[:2] == (load_bundle(signed).manifest, signed.name)
    await gateway.close()


def test_a_tag_that_moves_names_the_new_bundle_and_a_digest_the_old_one(
    start: Start, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path / "cache"))
    tag = f"oci://{start()}/cells:latest"
    first = push(bundle, tag)
    assert fovea("compare", tag, bundle).exit_code == 0
    assert fovea("pull", tag, "--to", tmp_path / "copy").exit_code == 0
    newer = another(bundle, tmp_path / "newer")
    time.sleep(1.1)  # images know whole seconds
    second = push(newer, tag)
    assert second != first
    assert fovea("pull", tag, "--to", tmp_path / "copy").exit_code == 0
    assert load_bundle(tmp_path / "copy").digest == newer.name, "of the copy that was there"
    filesystem.cache_clear()  # another process
    for uri, expected in ((tag, newer), (second, newer), (first, bundle)):
        assert fetch_bundle(uri, tmp_path / "fetched" / expected.name).digest == expected.name
    shown = json.loads(fovea("compare", tag, first, "-o", "json").stdout)
    assert shown, "both are in the cache under their own names"
    assert len(list((tmp_path / "cache").rglob("bundle.yaml"))) == 2


def test_what_the_registry_lost_or_changed_is_not_used(start: Start, bundle: Path, tmp_path: Path) -> None:
    image = push(bundle, f"oci://{start()}/cells:v1")
    blobs = {path.read_bytes(): path for path in (tmp_path / "registry").rglob("data")}
    layer = next(path for content, path in blobs.items() if b"models/model.onnx" in content)
    layer.write_bytes(layer.read_bytes().replace(b"logits", b"stigol"))
    with pytest.raises(CorruptData, match="the registry gave a blob with the digest sha256:"):
        fetch_bundle(image, tmp_path / "fetched")
    layer.write_bytes(b"0" * layer.stat().st_size + b"more")
    with pytest.raises(CorruptData, match="the registry gave a blob"):
        fetch_bundle(image, tmp_path / "longer")
    layer.unlink()
    with pytest.raises(NotFound):
        fetch_bundle(image, tmp_path / "again")


def test_a_registry_that_is_away_is_waited_for(bundle: Path, tmp_path: Path) -> None:
    """A Recoverable error: what serves tries again."""
    filesystem.cache_clear()
    with pytest.raises(StoreUnavailable):
        fetch_bundle("oci://127.0.0.1:9/cells:v1", tmp_path)
    pushed = fovea("push", bundle, "oci://127.0.0.1:9/cells:v1")
    assert (pushed.exit_code, "the registry does not answer" in pushed.stderr) == (75, True), pushed.output


def test_passwords_are_those_of_docker(
    start: Start, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passwords").write_text(PASSWORDS)
    address = start(htpasswd={"realm": "here", "path": str(tmp_path / "passwords")})
    target = f"oci://{address}/cells:v1"
    refused = fovea("push", bundle, target)
    assert refused.exit_code == 75, refused.output
    assert f"docker login {address}" in refused.stderr
    log_in(tmp_path, address, "wrong")
    assert "refuses the credentials" in fovea("push", bundle, target).stderr
    content = log_in(tmp_path, address, "secret")
    image = push(bundle, target)
    shutil.rmtree(tmp_path / "docker")
    with pytest.raises(AccessDenied):
        fetch_bundle(image, tmp_path / "anonymous")
    secret = tmp_path / "secret"
    secret.mkdir()
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", content)
    filesystem.cache_clear()
    assert fetch_bundle(image, tmp_path / "environment").digest == bundle.name
    with pytest.raises(AccessDenied):
        fetch_bundle(image, tmp_path / "of another store", str(secret))
    filesystem.cache_clear()
    monkeypatch.delenv("DOCKER_AUTH_CONFIG")
    (secret / "DOCKER_AUTH_CONFIG").write_text(content)
    assert fetch_bundle(image, tmp_path / "fetched", str(secret)).digest == bundle.name


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server of tokens for `user` with the password `secret`, and what a registry must know to believe it."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "tokens.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def encoded(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            login = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"user:secret").decode()
            kind, repository, actions = asked["scope"][0].split(":")
            chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
            seconds = int(time.time())
            access = {"type": kind, "name": repository, "actions": actions.split(",") if login else []}
            parts = [
                {"typ": "JWT", "alg": "RS256", "x5c": chain},
                {"iss": "tokens", "sub": "user", "aud": asked["service"][0], "exp": seconds + 300,
                 "nbf": seconds - 10, "iat": seconds, "jti": "1", "access": [access]},
            ]  # fmt: skip
            signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
            signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            body = json.dumps({"token": f"{signed}.{encoded(signature)}"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "realm": f"http://127.0.0.1:{server.server_address[1]}/token",
        "service": "the registry",
        "issuer": "tokens",
        "rootcertbundle": str(tmp_path / "tokens.pem"),
    }
    server.shutdown()
    server.server_close()


def test_tokens_are_fetched_where_the_registry_says(
    start: Start, tokens: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    """As public registries want it: a token for each repository, from another server."""
    address = start(token=tokens)
    target = f"oci://{address}/team/cells:v1"
    assert "refuses the credentials" in fovea("push", bundle, target).stderr
    log_in(tmp_path, address, "secret")
    image = push(bundle, target)
    assert fetch_bundle(image, tmp_path / "fetched").digest == bundle.name


@pytest.mark.parametrize(
    ("host", "plain"),
    [("localhost:5000", True), ("127.3.0.1", True), ("[::1]:5000", True), ("localhost.example", False),
     ("10.0.0.1:5000", False), ("lab:5000", True), ("lab", False)],
)  # fmt: skip
def test_without_tls_only_this_machine_is_asked_or_who_is_named(
    host: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_PLAIN_HTTP_REGISTRIES", "other, lab:5000")
    assert _is_plain(host) == plain


@pytest.mark.parametrize("uri", ["oci://lab/cells", "oci://lab/Cells:v1", "oci://cells:v1", "oci://lab/cells@sha256:1"])
def test_what_names_no_image_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="oci://registry/repository:tag"):
        StorePath.parse(uri)
