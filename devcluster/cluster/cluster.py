"""The whole cluster, step by step; every step finds out what is there and does only the rest."""

import json
import os
import shutil

from . import build, controlplane, images, network, node, pki
from .controlplane import apply, kubectl
from .processes import Processes
from .settings import CLUSTER, CONTROL_PLANE, HERE, S3_BUCKET, Plane
from .shell import Failure, locked, run, say, wait_for

_LOCK = CLUSTER.state.with_suffix(".lock")
_KUBERAY = ("ray-operator", "github.com/ray-project/kuberay/ray-operator")
_KUEUE = ("kueue-manager", "sigs.k8s.io/kueue")


def up(with_kueue: bool) -> None:
    _need_root()
    run(HERE / "install")
    build.build(*build.CLUSTER)
    images.make(*images.SYSTEM, *(("kueue",) if with_kueue else ()))
    with locked(_LOCK):
        network.refuse_strangers()
        node.refuse_other_kubelet()
        CLUSTER.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        node.need_room(0, "the cluster")
        node.claim()
        network.up()
        pki.ensure(CLUSTER)
        processes = Processes(CLUSTER.state)
        node.start_containerd(processes)
        controlplane.start(CLUSTER)
        apply("bootstrap.yaml")
        images.load("pause")
        node.start(processes)
        _install("kuberay", *_KUBERAY, "kuberay-system", "kuberay-operator")
        if with_kueue:
            _install("kueue", *_KUEUE, "kueue-system", "kueue-controller-manager")
            wait_for("kueue's webhooks", 120, _kueue_answers)
    say(f"the cluster is up: export KUBECONFIG={CLUSTER.kubeconfig()}")


def down(purge: bool) -> None:
    """Stops exactly what `up` started. Safe to run twice and after a crash."""
    _need_root()
    with locked(_LOCK):
        if node.CLAIM.exists():  # else `up` never came as far as to start anything
            processes = Processes(CLUSTER.state)
            node.stop(processes)
            controlplane.stop(CLUSTER)
            network.down()
            node.clean()
        if purge:
            shutil.rmtree(CLUSTER.state, ignore_errors=True)
    say("the cluster is down" + (" and its state is gone" if purge else ""))


def status() -> int:
    """Prints what runs; 0 when the cluster is complete."""
    processes = Processes(CLUSTER.state)
    expected = (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "containerd",
        "kubelet",
        "kube-proxy",
        "coredns",
        "volumes",
        "s3",
    )
    complete = _processes("cluster", CLUSTER, expected)
    if complete:
        print(kubectl("get", "nodes", check=False), end="")
        print(kubectl("get", "pods", "--all-namespaces", check=False), end="")
        print(f"\nkubeconfig  {CLUSTER.kubeconfig()}")
        print(f"s3          {node.S3_ENDPOINT}, bucket {S3_BUCKET}")
        print(f"            credentials: kubectl -n NAMESPACE apply -f {node.S3_SECRET}")
        print(f"logs        {processes.logs}\n")
    _processes("control plane alone", CONTROL_PLANE, ("etcd", "kube-apiserver", "kube-controller-manager"))
    return 0 if complete else 1


def _processes(title: str, plane: Plane, names: tuple[str, ...]) -> bool:
    processes = Processes(plane.state)
    states = {name: processes.pid(name) for name in names}
    if not any(states.values()):
        print(f"{title}: down")
        return False
    print(f"{title}:", ", ".join(f"{name} {pid or 'IS DOWN'}" for name, pid in states.items()))
    return all(states.values())


def load(*names: str) -> None:
    if not Processes(CLUSTER.state).pid("containerd"):
        raise Failure("the cluster is down; run devcluster up first")
    images.load(*(names or images.built()))


def _install(name: str, program: str, module: str, namespace: str, deployment: str) -> None:
    """Installs an operator as a pod, from its own module's manifests with our image."""
    images.load(name)
    folder = CLUSTER.state / "manifests" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "manifests" / name, folder)
    shutil.copytree(build.module_folder(program, module) / "config", folder / "config")
    run("chmod", "-R", "u+w", folder)
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
    # a new image replaces the running pod
    patch = {"spec": {"template": {"metadata": {"annotations": {"fovea.dev/image": images.digest(name)}}}}}
    kubectl("-n", namespace, "patch", "deployment", deployment, "--field-manager=devcluster", "-p", json.dumps(patch))
    wait_for(
        name,
        180,
        lambda: _rolled_out(namespace, deployment),
        lambda: kubectl("-n", namespace, "get", "pods", "-o", "wide", check=False),
    )


def _rolled_out(namespace: str, deployment: str) -> bool:
    return "successfully rolled out" in kubectl(
        "-n", namespace, "rollout", "status", f"deployment/{deployment}", "--timeout=1s", check=False
    )


def _kueue_answers() -> bool:
    """Whether its webhooks answer the API server; its pod is ready somewhat sooner."""
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    return bool(kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(flavor), check=False))


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Failure("a cluster that runs pods needs root; without it there is: devcluster up --control-plane")
