"""The node: containerd, kubelet, service proxy, cluster DNS, volumes and the S3 server, as host processes."""

import contextlib
import datetime
import hashlib
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

from .controlplane import kubectl
from .processes import BOOT, Processes, start_time
from .settings import (
    CLUSTER,
    CRI_SOCKET,
    HERE,
    HOST_IP,
    NODE,
    S3_BUCKET,
    S3_PORT,
    S3_REGION,
    render,
)
from .shell import Failure, run, say, succeeds, write

STATE = CLUSTER.state
CLAIM = STATE / "boot"  # holds the boot in which `up` last found no other cluster here
S3_ENDPOINT = f"http://{HOST_IP}:{S3_PORT}"
S3_SECRET = STATE / "s3-secret.yaml"
_CTR = ("ctr", "--address", str(CRI_SOCKET), "--namespace", "k8s.io")
_HOST_PROCESSES = ("kubelet", "kube-proxy", "kube-scheduler", "coredns", "volumes", "s3")
_KEPT_FREE = 4 << 30  # kubelet evicts all pods below half of it (kubelet.yaml); the rest is for what they write


def ctr(*arguments: str | Path, check: bool = True) -> str:
    return run(*_CTR, *arguments, check=check)


def refuse_other_kubelet() -> None:
    if _alive_in_pods() and not CLAIM.exists():
        raise Failure("another kubelet runs pods on this machine; stop it first")


def need_room(size: int, what: str) -> None:
    """Failure where the disk lacks the bytes: a full one would have its pods evicted, and no error would say why."""
    free = shutil.disk_usage(STATE).free
    if free < size + _KEPT_FREE:
        raise Failure(
            f"{what} needs {(size + _KEPT_FREE) / 1e9:.1f} GB on the disk of {STATE}, where {free / 1e9:.1f} GB are free: "
            "make room there, or set FOVEA_CACHE to a folder on a larger disk"
        )


def claim() -> None:
    """Marks the machine's pods as ours. After a reboot, clears the records of what is no more."""
    if CLAIM.exists() and CLAIM.read_text() != BOOT:
        say("the machine was restarted since: clearing what that boot left")
        for folder in ("run", "cni/data", "processes"):
            shutil.rmtree(STATE / folder, ignore_errors=True)
    write(CLAIM, BOOT)


def start_containerd(processes: Processes) -> None:
    write(STATE / "containerd.toml", render("containerd.toml"))
    write(STATE / "registries" / "_default" / "hosts.toml", render("hosts.toml"))
    write(STATE / "cni" / "net.d" / "10-bridge.conflist", render("bridge.conflist"))
    CRI_SOCKET.parent.mkdir(exist_ok=True)
    processes.start("containerd", "containerd", "--config", STATE / "containerd.toml", "--log-level", "warn")
    processes.wait("containerd", 30, lambda: succeeds(*_CTR, "version"))


def start(processes: Processes) -> None:
    """Everything that runs pods; containerd runs and holds the sandbox image."""
    user = CLUSTER.kubeconfig("scheduler")
    processes.start(
        "kube-scheduler",
        "kube-scheduler",
        f"--kubeconfig={user}",
        f"--authentication-kubeconfig={user}",
        f"--authorization-kubeconfig={user}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
        listens=("127.0.0.1", 10259),
    )
    write(STATE / "kubelet.yaml", render("kubelet.yaml"))
    write(STATE / "kube-proxy.yaml", render("kube-proxy.yaml"))
    write(STATE / "Corefile", render("Corefile"))
    write(STATE / "resolv.conf", "")
    started = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    fresh = processes.start(
        "kubelet",
        "kubelet",
        f"--config={STATE / 'kubelet.yaml'}",
        f"--kubeconfig={CLUSTER.kubeconfig('kubelet')}",
        f"--root-dir={STATE / 'kubelet'}",
        f"--cert-dir={STATE / 'kubelet-pki'}",
        f"--hostname-override={NODE}",
        f"--node-ip={HOST_IP}",
        listens=(HOST_IP, 10250),
    )
    processes.start("kube-proxy", "kube-proxy", f"--config={STATE / 'kube-proxy.yaml'}", listens=("127.0.0.1", 10256))
    processes.start("coredns", "coredns", "-conf", STATE / "Corefile", listens=(HOST_IP, 53))
    processes.start(
        "volumes",
        sys.executable,
        "-m",
        "cluster.volumes",
        CLUSTER.server,
        CLUSTER.pki,
        STATE / "volumes",
        env={"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    start_s3(processes)
    processes.wait("kubelet", 120, lambda: _node_ready(started if fresh else None))
    processes.wait("coredns", 30, lambda: succeeds("curl", "-sf", "http://127.0.0.1:8181/ready"))


def start_s3(processes: Processes) -> None:
    """versitygw over a folder, its bucket, and a Secret manifest with the credentials."""
    keys = STATE / "s3-keys"
    if not keys.exists():
        write(keys, f"fovea{secrets.token_hex(6)} {secrets.token_hex(20)}\n", mode=0o600)
    access, secret = keys.read_text().split()
    (STATE / "s3").mkdir(exist_ok=True)
    processes.start(
        "s3",
        "versitygw",
        "--port",
        f"{HOST_IP}:{S3_PORT}",
        "--region",
        S3_REGION,
        "posix",
        STATE / "s3",
        env={"ROOT_ACCESS_KEY_ID": access, "ROOT_SECRET_ACCESS_KEY": secret},
        listens=(HOST_IP, S3_PORT),
    )
    empty = hashlib.sha256().hexdigest()
    request = (
        "curl",
        "-sf",
        "--noproxy",
        "*",
        "--aws-sigv4",
        f"aws:amz:{S3_REGION}:s3",
        "--config",
        STATE / "s3-curl",
        "--header",
        f"x-amz-content-sha256: {empty}",
    )
    write(STATE / "s3-curl", f'user = "{access}:{secret}"\n', mode=0o600)
    bucket = f"{S3_ENDPOINT}/{S3_BUCKET}"
    processes.wait("s3", 20, lambda: succeeds(*request, "--head", bucket) or succeeds(*request, "-X", "PUT", bucket))
    write(
        S3_SECRET,
        f"""\
apiVersion: v1
kind: Secret
metadata: {{name: fovea-store}}
stringData:
  AWS_ACCESS_KEY_ID: {access}
  AWS_SECRET_ACCESS_KEY: {secret}
  AWS_REGION: {S3_REGION}
  AWS_ENDPOINT_URL: {S3_ENDPOINT}
""",
        mode=0o600,
    )


def _node_ready(since: datetime.datetime | None) -> bool:
    """A resumed cluster still says Ready from the last time: the heartbeat must be younger than this kubelet."""
    path = '{range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}'
    status, _, heartbeat = kubectl("get", "node", NODE, "-o", f"jsonpath={path}", check=False).partition(" ")
    return status == "True" and (since is None or datetime.datetime.fromisoformat(heartbeat) >= since)


def stop(processes: Processes) -> None:
    """Host processes, then pods; what must not come back goes first: without kubelet no new pods."""
    processes.stop(*_HOST_PROCESSES)
    if processes.pid("containerd") and succeeds(*_CTR, "version"):
        tasks = ctr("tasks", "ls", "-q", check=False).split()
        for task in tasks:
            succeeds(*_CTR, "tasks", "kill", "-s", "KILL", task)
        for task in tasks:
            succeeds(*_CTR, "tasks", "rm", "-f", task)
        for container in ctr("containers", "ls", "-q", check=False).split():
            succeeds(*_CTR, "containers", "rm", container)
    processes.stop("containerd")
    _kill_shims()
    _empty_cgroups()
    unmount(STATE)


def clean() -> None:
    """What pods and their runtime leave behind, in our folders and outside of them."""
    for folder in ("run", "cni/data", "pod-logs", "kubelet/pods"):
        shutil.rmtree(STATE / folder, ignore_errors=True)
    results = Path("/var/lib/cni/results")
    for path in results.glob("fovea-*"):
        path.unlink()
    for path in results.glob("cni-loopback-*"):
        if str(STATE) in path.read_text(errors="replace"):
            path.unlink()
    logs = Path("/var/log/containers")
    for path in logs.iterdir() if logs.is_dir() else ():
        if path.is_symlink() and os.readlink(path).startswith(f"{STATE}/"):
            path.unlink()

    # fixed paths of containerd, runc and kubelet, perhaps shared: only dead sockets and empty folders
    shims, plugins = Path("/run/containerd/s"), Path("/var/lib/kubelet/device-plugins")
    open_sockets = Path("/proc/net/unix").read_text()
    for path in (*shims.glob("*"), *plugins.glob("*")):
        if path.is_socket() and str(path) not in open_sockets:
            path.unlink()
    runc = Path("/run/containerd/runc")
    for path in (shims, runc / "k8s.io", runc, runc.parent, plugins, plugins.parent):
        _remove_folder(path)
    CLAIM.unlink()


def _kill_shims() -> None:
    """Sandbox shims outlive their task: ours are those that name our socket."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"containerd-shim" in words[0] and str(CRI_SOCKET).encode() in words:
            _kill(int(folder.name))


def _alive_in_pods() -> set[int]:
    found = {
        int(pid)
        for cgroup in _pod_cgroups()
        for file in cgroup.rglob("cgroup.procs")
        for pid in file.read_text().split()
    }
    return {pid for pid in found if start_time(pid)}


def _pod_cgroups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / "kubepods", *root.glob("*/kubepods")) if path.is_dir()]


def _empty_cgroups() -> None:
    """Ends whatever still lives in a pod's cgroup and removes the cgroups."""
    for _ in range(20):
        if not (alive := _alive_in_pods()):
            break
        for pid in alive:
            _kill(pid)
        time.sleep(0.1)
    for cgroup in _pod_cgroups():
        for folder in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            _remove_folder(folder)
        _remove_folder(cgroup)


def _remove_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # absent or in use: a zombie keeps its cgroup until somebody reaps it
        path.rmdir()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def unmount(folder: Path) -> None:
    """Unmounts everything below the folder, deepest first."""
    for _ in range(3):
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        ours = sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True)
        if not ours:
            return
        for mount in ours:
            if not succeeds("umount", mount):
                succeeds("umount", "-l", mount)
