"""etcd, API server and controller manager: alone on loopback for tests, or as the base of the whole cluster."""

import shutil

from . import build, pki
from .processes import Processes
from .settings import CLUSTER, CONTROL_PLANE, HERE, SERVICE_CIDR, Plane
from .shell import locked, run, say, succeeds


def up() -> None:
    """The control plane alone: no root, no network changes, beside a whole cluster if need be."""
    build.build(*build.CONTROL_PLANE)
    with locked(CONTROL_PLANE.state.with_suffix(".lock")):
        pki.ensure(CONTROL_PLANE)
        start(CONTROL_PLANE)


def down(purge: bool) -> None:
    with locked(CONTROL_PLANE.state.with_suffix(".lock")):
        stop(CONTROL_PLANE)
        if purge:
            shutil.rmtree(CONTROL_PLANE.state, ignore_errors=True)
        say("the control plane is down")


def start(plane: Plane) -> None:
    processes = Processes(plane.state)
    loopback = "127.0.0.1"
    etcd, peer = f"https://{loopback}:{plane.etcd_port}", f"https://{loopback}:{plane.etcd_port + 1}"
    p = plane.pki
    processes.start(
        "etcd",
        "etcd",
        "--name=fovea",
        f"--data-dir={plane.state / 'etcd'}",
        f"--listen-client-urls={etcd}",
        f"--advertise-client-urls={etcd}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=fovea={peer}",
        f"--cert-file={p}/etcd-server.crt",
        f"--key-file={p}/etcd-server.key",
        f"--trusted-ca-file={p}/etcd-ca.crt",
        "--client-cert-auth",
        f"--peer-cert-file={p}/etcd-server.crt",
        f"--peer-key-file={p}/etcd-server.key",
        f"--peer-trusted-ca-file={p}/etcd-ca.crt",
        "--peer-client-cert-auth",
        "--auto-compaction-retention=1h",
        "--log-level=warn",
        # tests throw their control plane away; the cluster's data must survive a power cut
        f"--unsafe-no-fsync={str(plane is not CLUSTER).lower()}",
        listens=(loopback, plane.etcd_port),
    )
    processes.wait(
        "etcd",
        30,
        lambda: succeeds(
            "curl",
            "-sf",
            "--cacert",
            p / "etcd-ca.crt",
            "--cert",
            p / "etcd-client.crt",
            "--key",
            p / "etcd-client.key",
            f"{etcd}/health",
        ),
    )
    place = (
        [
            f"--kubelet-client-certificate={p}/kubelet-client.crt",
            f"--kubelet-client-key={p}/kubelet-client.key",
            f"--kubelet-certificate-authority={p}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
        ]
        if plane is CLUSTER
        else ["--endpoint-reconciler-type=none"]  # a loopback address cannot be an endpoint
    )
    processes.start(
        "kube-apiserver",
        "kube-apiserver",
        f"--advertise-address={plane.address}",
        f"--bind-address={plane.address}",
        f"--secure-port={plane.api_port}",
        f"--etcd-servers={etcd}",
        f"--etcd-cafile={p}/etcd-ca.crt",
        f"--etcd-certfile={p}/etcd-client.crt",
        f"--etcd-keyfile={p}/etcd-client.key",
        f"--client-ca-file={p}/ca.crt",
        f"--tls-cert-file={p}/apiserver.crt",
        f"--tls-private-key-file={p}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={p}/service-account.pub",
        f"--service-account-signing-key-file={p}/service-account.key",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
        f"--requestheader-client-ca-file={p}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={p}/front-proxy.crt",
        f"--proxy-client-key-file={p}/front-proxy.key",
        "--allow-privileged=true",
        "--profiling=false",
        *place,
        listens=(plane.address, plane.api_port),
    )
    processes.wait(
        "kube-apiserver", 90, lambda: succeeds("kubectl", "--kubeconfig", plane.kubeconfig(), "get", "--raw=/readyz")
    )
    user = plane.kubeconfig("controller-manager")
    processes.start(
        "kube-controller-manager",
        "kube-controller-manager",
        f"--kubeconfig={user}",
        f"--authentication-kubeconfig={user}",
        f"--authorization-kubeconfig={user}",
        f"--bind-address={loopback}",
        f"--secure-port={plane.manager_port}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={p}/service-account.key",
        f"--root-ca-file={p}/ca.crt",
        f"--cluster-signing-cert-file={p}/ca.crt",
        f"--cluster-signing-key-file={p}/ca.key",
        "--allocate-node-cidrs=false",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--profiling=false",
        listens=(loopback, plane.manager_port),
    )
    # a pod is refused until its namespace has the default ServiceAccount
    processes.wait(
        "kube-controller-manager",
        60,
        lambda: succeeds(
            "kubectl", "--kubeconfig", plane.kubeconfig(), "-n", "default", "get", "serviceaccount", "default"
        ),
    )


def stop(plane: Plane) -> None:
    processes = Processes(plane.state)
    processes.stop("kube-controller-manager")
    processes.stop("kube-apiserver", seconds=1)  # its graceful end takes 6 s and buys nothing here
    processes.stop("etcd")


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """kubectl as the cluster's administrator."""
    return run("kubectl", "--kubeconfig", str(CLUSTER.kubeconfig()), *arguments, stdin=stdin, check=check)


def apply(manifest: str) -> None:
    """Applies manifests/<manifest> by server-side apply (some CRDs are too large for the client-side annotation)."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(HERE / "manifests" / manifest))
