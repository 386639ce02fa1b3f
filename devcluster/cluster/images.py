"""Container images: the product's own Containerfiles and the few that the cluster needs, built by buildah.

An image goes from buildah's storage into an OCI layout (layout.py) and from there into containerd; both steps move only
the layers that the other side lacks, so after a change of code the layer with torch is neither written nor read.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import build, layout
from .node import STATE, ctr, need_room, unmount
from .settings import BIN, CACHE, CRI_SOCKET, HERE, IMAGES, REPOSITORY
from .shell import PATH, Failure, locked, run, say, write

SYSTEM = ("pause", "kuberay")
PRODUCT = ("operator", "serving", "trainer")
DEFAULT = (*PRODUCT, "triton")  # what is built and loaded where none is named
ALL = (*SYSTEM, "kueue", "base", *DEFAULT)
_REQUIREMENTS = {"operator": "operator", "serving": "ray-serve", "trainer": "trainer"}  # of each product image
_LOCK = CACHE / "images.lock"  # of the layout
_STORAGE = CACHE / "buildah"
_LIBPYTHON = "libpython3.11.so.1.0"
_PACKAGES = "python3,python3-venv,ca-certificates,procps,wget"


def reference(name: str) -> str:
    return f"fovea.local/{'kuberay-operator' if name == 'kuberay' else name}:dev"


def make(*names: str) -> None:
    """Builds images and writes them to the layout; unchanged layers come from the cache."""
    for name in names:
        start = time.monotonic()
        if name in PRODUCT:
            _make_base()
            with _pip_secrets() as secrets:
                _build(
                    name,
                    REPOSITORY / "images" / name / "Containerfile",
                    REPOSITORY,
                    "--build-arg",
                    f"BASE_IMAGE={reference('base')}",
                    *secrets,
                )
            _forget_old_dependencies(name)
        elif name == "base":
            _make_base()
        elif name == "triton":
            _make_triton()
        elif name in ALL:
            _build(name, HERE / "images" / name / "Containerfile", _context(name))
        else:
            raise Failure(f"there is no image {name}; known: {', '.join(ALL)}")
        with locked(_LOCK):
            layout.add(reference(name), _STORAGE / "root")
        say(f"image {reference(name)} is built ({time.monotonic() - start:.0f} s)")


def load(*names: str) -> None:
    """Imports images from the layout into containerd, pinned, with only the blobs that containerd lacks."""
    with locked(_LOCK):
        for name in names:
            _load(reference(name))


def built() -> tuple[str, ...]:
    """Those of the images that are loaded by default that are in the layout; names the others."""
    found = tuple(name for name in DEFAULT if layout.has(reference(name)))
    if not found:
        raise Failure("no image is built; run devcluster images first")
    for name in DEFAULT:
        if name not in found:
            say(f"image {reference(name)} is not built, so it is not loaded; devcluster images {name} builds it")
    return found


def digest(name: str) -> str:
    """Digest of the image in the layout."""
    return layout.find(reference(name))


def _load(image: str) -> None:
    manifest = layout.find(image)
    if any(
        line.split()[0] == image and manifest in line for line in ctr("images", "ls", f"name=={image}").splitlines()[1:]
    ):
        return
    start = time.monotonic()
    present = set(ctr("content", "ls", "-q").split())
    digests = [digest for digest in layout.closure(manifest) if digest == manifest or digest not in present]
    size = sum(layout.blob(digest).stat().st_size for digest in digests)
    need_room(2 * size, f"image {image}")  # the archive of its layers, and their files
    importer = subprocess.Popen(
        ["ctr", "--address", str(CRI_SOCKET), "--namespace", "k8s.io", "images", "import", "--local", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": PATH},
    )
    assert importer.stdin
    assert importer.stdout
    try:
        with importer.stdin:
            layout.archive(image, digests, importer.stdin)
    except BrokenPipeError:
        pass  # the importer has died and says why
    output = importer.stdout.read().decode(errors="replace")
    if importer.wait():
        raise Failure(f"containerd did not take {image}:\n{output[-2000:]}")
    ctr("images", "label", image, "io.cri-containerd.pinned=pinned")
    _forget_replaced()
    layout.share(digests, STATE / "containerd" / "io.containerd.content.v1.content" / "blobs" / "sha256")
    say(f"image {image} is loaded ({time.monotonic() - start:.0f} s)")


def _forget_replaced() -> None:
    """Removes images that have lost their name to a newer one; running pods keep theirs."""
    images = [line.split() for line in ctr("images", "ls").splitlines()[1:]]
    named = {words[2] for words in images if not words[0].startswith("sha256:")}
    for words in images:
        if words[2] not in named:
            ctr("images", "rm", "--sync", words[0])


def _buildah(name: str, *words: str | Path) -> None:
    """buildah with its own storage under CACHE, so that it shares nothing with another buildah or podman."""
    temporary = _STORAGE / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    command = [
        "buildah",
        "--root",
        _STORAGE / "root",
        "--runroot",
        _STORAGE / "run",
        "--storage-driver",
        "overlay",
        *words,
    ]
    IMAGES.mkdir(parents=True, exist_ok=True)
    log = IMAGES / f"buildah-{name}.log"
    try:
        with open(log, "w") as output:
            done = subprocess.run(
                [str(word) for word in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": PATH, "TMPDIR": str(temporary)},
            )
    except FileNotFoundError as error:
        raise Failure("buildah is not installed; run devcluster/install as root") from error
    if done.returncode:
        raise Failure(
            f"buildah {words[0]} failed ({log}):\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        )


def _build(name: str, containerfile: Path, context: Path, *arguments: str) -> None:
    say(f"building image {reference(name)}")
    with locked(_STORAGE.with_suffix(".lock")):
        _buildah(name, "rm", "--all")  # what a build that was killed or failed has left, gigabytes
        _buildah(
            name,
            "build",
            "--signature-policy",
            HERE / "config" / "policy.json",
            "--isolation",
            "chroot",
            "--layers",
            "--pull-never",
            "--format",
            "oci",
            "--timestamp",
            "0",
            *arguments,
            "--file",
            containerfile,
            "--tag",
            reference(name),
            context,
        )


def _forget_old_dependencies(name: str) -> None:
    """Layers of an image's earlier dependencies go, 7 GB for the trainer; those of its earlier code are small."""
    requirements, record = REPOSITORY / "requirements" / f"{_REQUIREMENTS[name]}.txt", IMAGES / f"requirements-{name}"
    if record.exists() and record.read_bytes() != requirements.read_bytes():
        with locked(_STORAGE.with_suffix(".lock")):
            _buildah(name, "rmi", "--prune", "--force")
    record.write_bytes(requirements.read_bytes())


def _context(name: str) -> Path:
    """A folder with what the small Containerfiles copy."""
    folder = IMAGES / "context" / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "pause":
        run("gcc", "-Os", "-static", "-s", "-o", folder / "pause", HERE / "images" / "pause" / "pause.c")
    elif name == "triton":
        for file in ("install", "requirements.txt"):
            shutil.copy(HERE / "images" / name / file, folder / file)
        if not (folder / _LIBPYTHON).exists():
            run("apt-get", "download", "libpython3.11", cwd=folder)
            (package,) = folder.glob("*.deb")
            run("dpkg-deb", "--extract", package, folder / "package")
            (folder / "package" / "usr" / "lib" / "x86_64-linux-gnu" / _LIBPYTHON).rename(folder / _LIBPYTHON)
            shutil.rmtree(folder / "package")
            package.unlink()
    else:
        program = {"kuberay": "ray-operator", "kueue": "kueue-manager"}[name]
        build.build(program)
        target = folder / program
        target.unlink(missing_ok=True)
        os.link(BIN / program, target)
    return folder


def _make_triton() -> None:
    """The serving image with a tritonserver, which loads Python from a library that the base has not."""
    if not layout.has(reference("serving")):
        make("serving")
    folder = _context("triton")
    with _pip_secrets() as secrets:
        _build(
            "triton",
            HERE / "images" / "triton" / "Containerfile",
            folder,
            "--build-arg",
            f"BASE_IMAGE={reference('base')}",
            "--build-arg",
            f"SERVING_IMAGE={reference('serving')}",
            *secrets,
        )


def _make_base() -> None:
    """Debian 12 with Python 3.11 from the machine's own package mirror."""
    folder = IMAGES / "context" / "base"
    archive = folder / "base.tar"
    with locked(CACHE / "base.lock"):
        if not archive.exists():
            _make_base_archive(folder, archive)
        _build("base", HERE / "images" / "base" / "Containerfile", folder)


def _make_base_archive(folder: Path, archive: Path) -> None:
    say("making the base image from Debian packages")
    root = folder / "root"
    unmount(root)
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    mirror = run("apt-get", "indextargets", "--format", "$(SITE)").split()[0]
    run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", root, mirror)
    for pattern in (
        "var/cache/apt/archives/*.deb",
        "var/lib/apt/lists/*",
        "usr/share/doc/*",
        "usr/share/man/*",
        "usr/share/locale/*",
        "etc/resolv.conf",
        "etc/hostname",
        "etc/apt/sources.list",
        "var/log/*",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    part = archive.with_suffix(".part")
    run(
        "tar",
        "--numeric-owner",
        "--sort=name",
        "--exclude=./dev/*",
        "--exclude=./proc/*",
        "--exclude=./sys/*",
        "-C",
        root,
        "-cf",
        part,
        ".",
    )
    unmount(root)
    shutil.rmtree(root)
    part.rename(archive)


@contextmanager
def _pip_secrets() -> Iterator[list[str]]:
    """The machine's pip settings and certificates as build secrets: used while building, never part of an image."""
    settings: dict[str, str] = {}
    for line in run("python3", "-m", "pip", "config", "list", check=False).splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'")
    settings.pop("find-links", None)  # a folder of this machine
    certificates = settings.pop("cert", "") or os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(
            folder / "pip.conf",
            "[global]\n"
            + "".join(f"{key} = {value}\n" for key, value in settings.items())
            + "cert = /run/secrets/ca.crt\n",
            mode=0o600,
        )
        yield ["--secret", f"id=pip,src={folder / 'pip.conf'}", "--secret", f"id=ca,src={certificates}"]
