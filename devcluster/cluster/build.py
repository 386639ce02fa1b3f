"""Programs built from the Go modules pinned in modules/*/go.mod and go.sum."""

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .settings import BIN, CACHE, HERE
from .shell import PATH, Failure, locked, run, say, write

KUBERNETES = "v1.36.3"
_COMPONENT = "k8s.io/component-base/version"
_VERSION = f"-X {_COMPONENT}.gitVersion={KUBERNETES} -X {_COMPONENT}.gitMajor=1 -X {_COMPONENT}.gitMinor=36"
_CONTAINERD = "github.com/containerd/containerd/v2"


@dataclass(frozen=True)
class Program:
    module: str  # folder under modules/
    package: str  # "." for a main package of our own in that folder
    flags: str = ""


PROGRAMS = {
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3"),
    **{
        name: Program("kubernetes", f"k8s.io/kubernetes/cmd/{name}", _VERSION)
        for name in ("kube-apiserver", "kube-controller-manager", "kubectl", "kube-scheduler", "kubelet", "kube-proxy")
    },
    "containerd": Program("containerd", f"{_CONTAINERD}/cmd/containerd", f"-X {_CONTAINERD}/version.Version=2.2.9"),
    "containerd-shim-runc-v2": Program("containerd", f"{_CONTAINERD}/cmd/containerd-shim-runc-v2"),
    "ctr": Program("containerd", f"{_CONTAINERD}/cmd/ctr"),
    "coredns": Program("coredns", "."),
    "versitygw": Program("versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    "registry": Program("distribution", "."),
    "ray-operator": Program("kuberay", "github.com/ray-project/kuberay/ray-operator"),
    "kueue-manager": Program("kueue", "sigs.k8s.io/kueue/cmd/kueue"),
    "helm": Program("helm", "helm.sh/helm/v4/cmd/helm"),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
CLUSTER = (
    *CONTROL_PLANE,
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "coredns",
    "versitygw",
    "ray-operator",
)
ALL = (*CLUSTER, "helm", "registry")  # Kueue is built when it is asked for

_GO = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off", "PATH": PATH}


def build(*names: str) -> None:
    """Builds what is missing or was built from other pins, one at a time: the Go compiler fills the cores itself."""
    for name in names:
        if name not in PROGRAMS:
            raise Failure(f"there is no program {name}; known: {', '.join(PROGRAMS)}")
        if not _fresh(name):
            with locked(CACHE / "build.lock"):
                if not _fresh(name):  # nobody built it while we waited
                    _build(name)


def _fresh(name: str) -> bool:
    recorded = _record(name)
    return (BIN / name).exists() and recorded.exists() and recorded.read_text() == _pins(name)


def _record(name: str) -> Path:
    return BIN / f".{name}.pins"


def _pins(name: str) -> str:
    """Digest of everything that decides what the program is."""
    program = PROGRAMS[name]
    folder = HERE / "modules" / program.module
    files = [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files) + program.flags.encode()).hexdigest()


def _build(name: str) -> None:
    program = PROGRAMS[name]
    say(f"building {name} from its Go module (the first time takes minutes)")
    start = time.monotonic()
    BIN.mkdir(parents=True, exist_ok=True)
    part = BIN / f".{name}.part"
    try:
        done = subprocess.run(
            ["go", "build", "-trimpath", "-ldflags", f"-s -w {program.flags}", "-o", part, program.package],
            cwd=HERE / "modules" / program.module,
            env={**os.environ, **_GO},
            text=True,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Failure("the Go toolchain (1.26) is not on PATH; install it first") from error
    if done.returncode:
        raise Failure(f"go build of {name} failed:\n{done.stderr[-3000:]}")
    part.rename(BIN / name)
    write(_record(name), _pins(name))
    say(f"built {name} in {time.monotonic() - start:.0f} s")


def module_folder(program: str, module: str) -> Path:
    """Folder of a pinned module's source in the module cache (for its manifests)."""
    return Path(
        run(
            "go", "list", "-m", "-f", "{{.Dir}}", module, cwd=HERE / "modules" / PROGRAMS[program].module, env=_GO
        ).strip()
    )
