#!/usr/bin/env python3
"""`make demo`: from labelled images to a detector that answers, and then to one that looks after itself (loop.py), on a
real Kubernetes where the machine can have one.

It takes what the machine can have, and says what it took: devcluster (Debian as root); kind (with docker, kind, kubectl
and helm); current, that of your KUBECONFIG, with KubeRay on it, kubectl and helm, and OPERATOR_IMAGE, TRAINER_IMAGE and
SERVING_IMAGE, built from images/ and pushed to where it pulls from; else local, the same story by hand without
Kubernetes. CLUSTER names another choice. kind and current need STORE_SECRET. Everything else is in the manifests;
NAMESPACE is where they are applied (fovea-demo). LOOP=no ends it where the detector answers. Writes .demo/index.html,
which tells what happened, and what it links to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import page

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / ".demo"
DEVCLUSTER = ROOT / "devcluster" / "devcluster"
SYSTEM, NAME = "fovea-system", "blood-cells"
NAMESPACE = os.environ.get("NAMESPACE") or "fovea-demo"
LOCAL_IMAGES = {name: f"fovea.local/{name}:dev" for name in ("operator", "trainer", "serving")}
"""Those that the devcluster and kind get, built here."""
KUBERAY = (
    "helm", "upgrade", "--install", "kuberay-operator", "kuberay-operator", "--version", "1.6.0",
    "--repo", "https://ray-project.github.io/kuberay-helm/", "--namespace", "kuberay-system", "--create-namespace",
    "--wait",
)  # fmt: skip
TRITON_IMAGE = "fovea.local/triton:dev"
"""Not built here; `spec.runtime: Triton` needs it."""
REQUESTS = 40
"""Requests by which the latency is measured."""
PROGRAMS = {
    "devcluster": (), "kind": ("docker", "kind", "kubectl", "helm"), "current": ("kubectl", "helm"), "local": (),
}  # fmt: skip
"""What each kind of cluster needs on the PATH; the devcluster builds its own."""
LIMIT_SECONDS = 45 * 60
"""After this the demo gives up; 8 epochs take some 10 minutes on 2 cores."""

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
    given = os.environ.get("CLUSTER")
    cluster, why = (given, "as CLUSTER says") if given else choose()
    check(cluster)
    print(f"== {cluster}: {why}", flush=True)
    if cluster == "local":
        return by_hand(why)
    images, secret = images_of(cluster), store_secret(cluster)
    PREPARE[cluster]()
    context = output("kubectl", "config", "current-context").strip()
    server = output("kubectl", "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    print(f"== {cluster}: context {context}, {server}", flush=True)
    need_kuberay()
    with stage("operator"):
        run(
            "helm", "upgrade", "--install", "fovea", ROOT / "charts" / "fovea", "--namespace", SYSTEM,
            "--create-namespace", "--wait", "--timeout", "3m", "--force-conflicts",
            "--set-string", operator_values(images["operator"]),
            "--set-string", f"podAnnotations.demo={int(time.time())}",  # a new image under the same tag is started
            "--set-string", f"defaults.trainerImage={images['trainer']}",
            "--set-string", f"defaults.servingImage={images['serving']},defaults.tritonImage={TRITON_IMAGE}",
            "--set", "operator.settings.gateway_replicas=1",  # 2 cores
            "--set", "defaults.store.uri=s3://fovea,defaults.store.secretName=fovea-store",
        )  # fmt: skip
    with stage("images of blood cells"):
        apply(TENANT)
        run("kubectl", "-n", NAMESPACE, "apply", "-f", secret)
        apply(CLAIM, loader(images["trainer"]))
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
    run("kubectl", "-n", NAMESPACE, "apply", "--server-side", "-f", ROOT / "examples" / "blood-cells-serving.yaml")
    with stage("serving"):
        deployment = follow("modeldeployment")
        answered = ask()
    code = summarize(dataset, job, deployment, answered, f"{cluster}: {why}; context {context}, {server}")
    if code == 0 and os.environ.get("LOOP") != "no":
        code = subprocess.run([sys.executable, ROOT / "examples" / "loop.py"]).returncode
    return code


def choose() -> tuple[str, str]:
    """What the machine can have, and why; what was asked for by a variable first."""
    store, images = bool(os.environ.get("STORE_SECRET")), bool(os.environ.get("OPERATOR_IMAGE"))
    if os.environ.get("KUBECONFIG"):
        return "current", "KUBECONFIG is set"
    if os.geteuid() == 0 and Path("/etc/debian_version").exists():
        return "devcluster", "this is Debian, and you are root"
    if store and not missing_programs("kind"):
        return "kind", "Docker and kind are here, and STORE_SECRET is set"
    if store and images and not missing_programs("current"):
        return "current", "kubectl is here, and STORE_SECRET and the images are set"
    return "local", "no cluster can be had: the devcluster needs Debian as root, kind needs Docker and STORE_SECRET"


def missing_programs(cluster: str) -> list[str]:
    """The programs that a kind of cluster needs and that are not on the PATH."""
    return [program for program in PROGRAMS[cluster] if shutil.which(program) is None]


def check(cluster: str) -> None:
    """Ends with what is missing on this machine, before anything is made."""
    if cluster not in PREPARE:
        sys.exit(f"demo: there is no CLUSTER={cluster}; it is one of {', '.join(PREPARE)}")
    if cluster == "devcluster":
        if os.geteuid() != 0:
            sys.exit(
                "demo: the devcluster needs root. Use CLUSTER=kind with Docker, KUBECONFIG for a cluster of yours, or "
                "CLUSTER=local for the same without Kubernetes"
            )
    elif missing := missing_programs(cluster):
        needed = ", ".join(PROGRAMS[cluster])
        sys.exit(f"demo: CLUSTER={cluster} needs {needed}; not on the PATH: {', '.join(missing)}")


def images_of(cluster: str) -> dict[str, str]:
    """Images of operator, trainer and serving; a cluster that is not ours pulls them from where they were pushed."""
    if cluster != "current":
        return LOCAL_IMAGES
    given = {name: os.environ.get(f"{name.upper()}_IMAGE", "") for name in LOCAL_IMAGES}
    if missing := [f"{name.upper()}_IMAGE" for name, image in given.items() if not image]:
        sys.exit(
            f"demo: CLUSTER=current needs {' and '.join(missing)}, such as registry.example/fovea/operator:dev: "
            "build the Containerfiles in images/operator, images/trainer and images/serving, and push the images to "
            "where the cluster pulls from"
        )
    return given


def make_devcluster() -> None:
    with stage("cluster and images"):
        run(DEVCLUSTER.with_name("install"))
        images = subprocess.Popen([DEVCLUSTER, "images", *LOCAL_IMAGES])  # beside the rest: it mostly waits
        run(DEVCLUSTER, "build")
        run(DEVCLUSTER, "up")
        if images.wait() != 0:
            sys.exit("demo: the images were not built")
        run(DEVCLUSTER, "load", *LOCAL_IMAGES)
    os.environ["KUBECONFIG"] = output(DEVCLUSTER, "kubeconfig").strip()
    os.environ["PATH"] = f"{programs()}{os.pathsep}{os.environ['PATH']}"


def make_kind() -> None:
    with stage("cluster"):
        if "fovea" in output("kind", "get", "clusters").split():
            run("kind", "export", "kubeconfig", "--name", "fovea")
        else:
            run("kind", "create", "cluster", "--name", "fovea", "--config", ROOT / "kind-config.yaml")
        run(*KUBERAY)
    with stage("images"):
        for name, image in LOCAL_IMAGES.items():
            run("docker", "build", "-t", image, "-f", ROOT / "images" / name / "Containerfile", ROOT)
            run("kind", "load", "docker-image", "--name", "fovea", image)


PREPARE = {"devcluster": make_devcluster, "kind": make_kind, "current": lambda: None, "local": lambda: None}


def by_hand(why: str) -> int:
    """The same story without Kubernetes: the very code of the pods, in a process of this machine."""
    with stage("packages"):
        run("make", "-C", ROOT, "--no-print-directory", "venv")
    fovea = [str(ROOT / ".venv" / "bin" / "fovea")]
    options = ["-f", str(ROOT / "examples" / "blood-cells.yaml"), "--store", str(OUT / "store"), "-o", "json"]
    with stage("dataset"):
        built = json.loads(output_of([*fovea, "dataset", "build", *options]))
    with stage("training"):
        trained = json.loads(output_of([*fovea, "train", *options], allowed=(0, 3)))
    dataset = {"status": built["dataset"]}
    criteria = trained["successCriteria"]
    result = {
        "bundle": trained["artifact"], "metrics": trained["metrics"], "successCriteria": criteria,
        "eligible": all(each["met"] for each in criteria),
    }  # fmt: skip
    OUT.mkdir(exist_ok=True)
    shutil.copyfile(built["report"], OUT / "dataset.html")
    shutil.copyfile(trained["report"], OUT / "report.html")
    image = min((ROOT / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))
    with stage("predicting"):
        (answer,) = json.loads(output_of([*fovea, "predict", result["bundle"], str(image), "-o", "json"])).values()
    serving = {"image": image.name, "objects": counted(answer["objects"])}
    return write_summary(dataset, result, serving, f"local: {why}")


def output_of(command: list[str], allowed: tuple[int, ...] = (0,)) -> str:
    """What a command prints; what it says beside that is seen as it comes."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in allowed:
        sys.exit(f"demo: `{' '.join(command)}` failed with {done.returncode}")
    return done.stdout


def need_kuberay() -> None:
    """Ends where the cluster does not know RayJobs: without them the training would wait for ever."""
    if not output("kubectl", "get", "crd", "rayjobs.ray.io", "--ignore-not-found", "-o", "name"):
        sys.exit(f"demo: the cluster has no KubeRay, which trains; install it: {' '.join(KUBERAY)}")


def operator_values(image: str) -> str:
    """The chart's values of an image reference."""
    name, _, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")  # a colon before the last slash is a port's
    base, _, tag = last.partition(":")
    return f"image.repository={folder}{slash}{base},image.tag={tag},image.digest={digest}"


def store_secret(cluster: str) -> Path:
    """The manifest with the credentials of the store `s3://fovea`: the devcluster's own, else $STORE_SECRET."""
    if cluster == "devcluster":
        return programs().parent / "cluster" / "s3-secret.yaml"
    given = Path(os.environ.get("STORE_SECRET", ""))
    if given.is_file():
        return given
    sys.exit(
        f"demo: CLUSTER={cluster} needs STORE_SECRET, a file with the manifest of a Secret `fovea-store` with "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL of an S3 server that has a bucket "
        "`fovea`"
    )


def loader(image: str) -> dict:
    """A pod that takes the pictures into their claim, and gives the report out of the store."""
    return {
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
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "7200"],
                "envFrom": [{"secretRef": {"name": "fovea-store"}}],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "datasets", "mountPath": "/datasets"}],
            }],
            "volumes": [{"name": "datasets", "persistentVolumeClaim": {"claimName": "datasets"}}],
        },
    }  # fmt: skip


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
        told = {name: value for name, value in progress.get("metrics", {}).items() if name != "train/learningRate"}
        words += [f"{name} {value:.3f}" for name, value in told.items()][:3]
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


def ask() -> dict:
    """Asks the served model with curl, as anybody would: the answer, and the 95th percentile of the latency."""
    image = min((ROOT / "examples/data/bccd/BCCD/JPEGImages").glob("*.jpg"))
    forward = subprocess.Popen(
        ["kubectl", "-n", NAMESPACE, "port-forward", f"service/{NAME}", ":80"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert forward.stdout is not None
        port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
        url = f"http://127.0.0.1:{port}/v1/predict"
        question = ("curl", "--silent", "--show-error", "--fail", "--max-time", "30", "--data-binary", f"@{image}", url)
        print(f"  {' '.join(question)}", flush=True)
        answer = json.loads(output(*question))
        picture = (*question[:-1], f"{url}?render=1", "--output", OUT / "answer.jpg")
        OUT.mkdir(exist_ok=True)
        run(*picture)
        screenshot(f"http://127.0.0.1:{port}/")
        seconds_ = sorted(
            float(output(*question, "--output", os.devnull, "--write-out", "%{time_total}")) for _ in range(REQUESTS)
        )
    finally:
        forward.terminate()
        forward.wait()
    return {
        "image": image.name,
        "model": answer["model"],
        "objects": counted(answer["predictions"][0]["objects"]),
        "latencyP95Milliseconds": round(seconds_[int(0.95 * (REQUESTS - 1))] * 1000, 1),
    }


def screenshot(url: str) -> None:
    """A picture of the page that the service has for people, where Chromium is here (`make test-page` installs it)."""
    if (browser := shutil.which("chromium")) is None:
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # its processes may write there to the last
        options = (f"--user-data-dir={profile}", "--window-size=1100,800", "--virtual-time-budget=5000")
        command = [browser, "--headless", "--no-sandbox", *options, f"--screenshot={OUT / 'service.png'}", url]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


def counted(objects: list[dict]) -> dict[str, int]:
    """Objects of each class."""
    return {name: sum(it["class"] == name for it in objects) for name in sorted({it["class"] for it in objects})}


def summarize(dataset: dict, job: dict, deployment: dict, answered: dict, where: str) -> int:
    result = job["status"]["result"]
    fetch_report(dataset["status"]["artifact"], "dataset.html")
    fetch_report(result["bundle"], "report.html")
    return write_summary(dataset, result, {"url": deployment["status"]["url"], **answered}, where)


def fetch_report(artifact: str, name: str) -> None:
    """Brings the report of a dataset version or a bundle."""
    bring(f"fovea report '{artifact}'", name)


def bring(command: str, name: str) -> None:
    """Brings the file that a command of `fovea` writes; the loader, in which it runs, has access to the store."""
    script = f"{command} --to /tmp/{name} >/dev/null && cat /tmp/{name}"
    words = ["kubectl", "-n", NAMESPACE, "exec", "loader", "--", "sh", "-c", script]
    (OUT / name).write_bytes(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)


def write_summary(dataset: dict, result: dict, serving: dict, where: str) -> int:
    """Figures, in files and on the terminal; the exit code. What an earlier loop has left is another model's."""
    for name in ("loop.json", "retrained.html", "drift.html"):
        (OUT / name).unlink(missing_ok=True)
    summary = {
        "cluster": where,
        "dataset": {
            name: dataset["status"][name] for name in ("version", "images", "annotations", "splits", "quality")
        },
        "metrics": result["metrics"],
        "successCriteria": result["successCriteria"],
        "bundle": result["bundle"],
        "report": str(OUT / "report.html"),
        "serving": serving,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2))
    print(f"\n{where}")
    for name, value in sorted(result["metrics"].items()):
        print(f"  {name:32} {value:.4g}")
    for item in result["successCriteria"]:
        print(f"  {'met   ' if item['met'] else 'MISSED'} {item['metric']}: {item.get('measured')}")
    print("\n".join(f"  {value:7.1f} s  {name}" for name, value in seconds.items()))
    counts = ", ".join(f"{count} {name}" for name, count in serving["objects"].items())
    print(f"answer  {serving['image']}: {counts}")
    if "url" in serving:
        print(f"url     {serving['url']}/v1/predict, p95 {serving['latencyP95Milliseconds']:g} ms")
    print(f"bundle  {result['bundle']}\nfigures {OUT / 'summary.json'}\npage    {page.write(OUT)}")
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
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"demo: `{' '.join(map(str, command))}` failed: {result.stderr.strip()}")
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
