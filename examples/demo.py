#!/usr/bin/env python3
"""`make demo`: from labelled images to a trained detector on a real Kubernetes, driven by manifests only.

CLUSTER=devcluster (default; Debian as root), kind (Docker), or any cluster by KUBECONFIG with CLUSTER=current, which
need kubectl and helm; everything else is in the manifests. NAMESPACE is where they are applied (fovea-demo). Writes
.demo/summary.json and .demo/report.html.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / ".demo"
DEVCLUSTER = ROOT / "devcluster" / "devcluster"
SYSTEM, NAME = "fovea-system", "blood-cells"
NAMESPACE = os.environ.get("NAMESPACE") or "fovea-demo"
IMAGES = {name: f"fovea.local/{name}:dev" for name in ("operator", "trainer")}
LIMIT_SECONDS = 45 * 60
"""After this the demo gives up; 8 epochs take some 10 minutes on 2 cores."""

LOADER = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "loader"},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "loader",
            "image": IMAGES["trainer"],
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "7200"],
            "envFrom": [{"secretRef": {"name": "fovea-store"}}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "datasets", "mountPath": "/datasets"}],
        }],
        "volumes": [{"name": "datasets", "persistentVolumeClaim": {"claimName": "datasets"}}],
    },
}  # fmt: skip
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "datasets"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
TENANT = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
}

seconds: dict[str, float] = {}


def main() -> int:
    OUT.mkdir(exist_ok=True)
    cluster = os.environ.get("CLUSTER") or ("current" if os.environ.get("KUBECONFIG") else "devcluster")
    if cluster == "devcluster":
        if os.geteuid() != 0:
            sys.exit(
                "demo: the devcluster needs root. Use CLUSTER=kind with Docker, KUBECONFIG for a cluster of yours, or "
                "train without Kubernetes: make venv && .venv/bin/fovea train -f examples/blood-cells.yaml"
            )
        with stage("cluster and images"):
            run(DEVCLUSTER.with_name("install"))
            images = subprocess.Popen([DEVCLUSTER, "images", *IMAGES])  # they mostly wait for packages: beside the rest
            run(DEVCLUSTER, "build")
            run(DEVCLUSTER, "up")
            if images.wait() != 0:
                sys.exit("demo: the images were not built")
            run(DEVCLUSTER, "load", *IMAGES)
        os.environ["KUBECONFIG"] = output(DEVCLUSTER, "kubeconfig").strip()
        os.environ["PATH"] = f"{programs()}{os.pathsep}{os.environ['PATH']}"
    elif cluster == "kind":
        with stage("cluster"):
            run("kind", "create", "cluster", "--name", "fovea", "--config", ROOT / "kind-config.yaml")
        with stage("images"):
            for name, image in IMAGES.items():
                run("docker", "build", "-t", image, "-f", ROOT / "images" / name / "Containerfile", ROOT)
                run("kind", "load", "docker-image", "--name", "fovea", image)
    secret = store_secret(cluster)
    with stage("operator"):
        run(
            "helm", "upgrade", "--install", "fovea", ROOT / "charts" / "fovea", "--namespace", SYSTEM,
            "--create-namespace", "--wait", "--timeout", "3m", "--force-conflicts",
            "--set", "image.repository=fovea.local/operator,image.tag=dev",
            "--set", f"defaults.trainerImage={IMAGES['trainer']}",
            "--set", "defaults.store.uri=s3://fovea,defaults.store.secretName=fovea-store",
        )  # fmt: skip
    with stage("images of blood cells"):
        apply(TENANT)
        run("kubectl", "-n", NAMESPACE, "apply", "-f", secret)
        apply(CLAIM, LOADER)
        run("kubectl", "-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/loader", "--timeout=120s")
        files = subprocess.Popen(["tar", "-C", ROOT / "examples/data/bccd", "-cf", "-", "BCCD"], stdout=subprocess.PIPE)
        unpack = "rm -rf /datasets/bccd && mkdir /datasets/bccd && tar -C /datasets/bccd --strip-components=1 -xf -"
        subprocess.run(
            ["kubectl", "-n", NAMESPACE, "exec", "-i", "loader", "--", "sh", "-c", unpack],
            stdin=files.stdout, check=True,
        )  # fmt: skip
    run("kubectl", "-n", NAMESPACE, "apply", "--server-side", "-f", ROOT / "examples" / "blood-cells.yaml")
    with stage("dataset"):
        dataset = follow("dataset")
    with stage("training"):
        job = follow("trainingjob")
    return summarize(dataset, job)


def store_secret(cluster: str) -> Path:
    """The manifest with the credentials of the store `s3://fovea`: the devcluster's own, else $STORE_SECRET."""
    if cluster == "devcluster":
        return programs().parent / "cluster" / "s3-secret.yaml"
    if given := os.environ.get("STORE_SECRET"):
        return Path(given)
    sys.exit(
        "demo: STORE_SECRET must name a manifest of a Secret `fovea-store` with AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL of an S3 server that has a bucket `fovea`"
    )


def programs() -> Path:
    """Where the devcluster keeps kubectl and helm."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FOVEA_CACHE") or Path(cache) / "fovea") / "bin"


def follow(kind: str) -> dict:
    """Prints how the object gets on until it is Ready or cannot go on; gives it."""
    said, end = "", time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        found = json.loads(output("kubectl", "-n", NAMESPACE, "get", kind, NAME, "-o", "json"))
        status = found.get("status", {})
        held = {item["type"]: item for item in status.get("conditions", ())}
        progress = status.get("progress", {})
        words = [kind, status.get("phase", ""), progress.get("stage", ""), f"{progress.get('percent', 0)} %"]
        words += [f"{name} {value:.3f}" for name, value in progress.get("metrics", {}).items() if "/" in name][:3]
        words += [f"eta {progress['eta']}"] if progress.get("eta") else []
        line = "  ".join(filter(None, words))
        if line != said:
            print(f"  {line}", flush=True)
            said = line
        current = held.get("Ready", {}).get("observedGeneration") == found["metadata"]["generation"]
        if current and held["Ready"]["status"] == "True":
            return found
        if current and held.get("Stalled", {}).get("status") == "True":
            sys.exit(f"demo: {kind} {NAME}: {held['Ready']['reason']}: {held['Ready']['message']}")
        time.sleep(3)
    sys.exit(f"demo: {kind} {NAME} is not ready after {LIMIT_SECONDS // 60} minutes; kubectl describe says why")


def summarize(dataset: dict, job: dict) -> int:
    result = job["status"]["result"]
    report = subprocess.run(
        ["kubectl", "-n", NAMESPACE, "exec", "loader", "--", "sh", "-c",
         f"fovea report '{result['bundle']}' --to /tmp/report.html >/dev/null && cat /tmp/report.html"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    (OUT / "report.html").write_bytes(report)
    summary = {
        "dataset": {
            name: dataset["status"][name] for name in ("version", "images", "annotations", "splits", "quality")
        },
        "metrics": result["metrics"],
        "successCriteria": result["successCriteria"],
        "bundle": result["bundle"],
        "report": str(OUT / "report.html"),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2))
    print()
    for name, value in sorted(result["metrics"].items()):
        print(f"  {name:32} {value:.4g}")
    for item in result["successCriteria"]:
        print(f"  {'met   ' if item['met'] else 'MISSED'} {item['metric']}: {item.get('measured')}")
    print("\n".join(f"  {value:7.1f} s  {name}" for name, value in seconds.items()))
    print(f"bundle  {result['bundle']}\nreport  {OUT / 'report.html'}\nfigures {OUT / 'summary.json'}")
    return 0 if result["eligible"] else 3


@contextmanager
def stage(name: str) -> Iterator[None]:
    print(f"== {name}", flush=True)
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def apply(*manifests: dict) -> None:
    text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
    command = ["kubectl", "-n", NAMESPACE, "apply", "--server-side", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True)


def run(*command: str | Path) -> None:
    result = subprocess.run([str(word) for word in command])
    if result.returncode != 0:
        sys.exit(f"demo: `{' '.join(map(str, command))}` failed with {result.returncode}")


def output(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
