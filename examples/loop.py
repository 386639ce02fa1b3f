#!/usr/bin/env python3
"""The second half of `make demo`: the loop closes itself, from images that change to a better model that serves.

It applies examples/blood-cells-loop.yaml where examples/demo.py has been, plays the laboratory (examples/production.py,
in the pod that has the pictures), and looks on: drift is detected, the labels become a version, the served model learns
from it, is compared, and takes over step by step. KUBECONFIG and NAMESPACE say where; a namespace has one such story.
Writes .demo/loop.json and .demo/index.html.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import page
from demo import NAME, NAMESPACE, OUT, ROOT, bring, fetch_report, output, seconds, stage

MANIFEST = ROOT / "examples" / "blood-cells-loop.yaml"
USUAL, LABELLED = 30, 75
"""Images of the day before, and images that the laboratory labels. The former are as many as a window of the example
needs (`minSamples`), so that no window has images of both."""
LATER, SOON = timedelta(minutes=50), timedelta(seconds=5)
"""When the dataset is read again: not before the laboratory is done, and then at the next minute."""
CHANGED = "75s"
"""How long the laboratory takes for its labels: what the report of the drift is of."""
SLOW, FAST = 90, 240
"""Images a minute while a model is trained, and while one is tried."""
LIMIT_SECONDS = 20 * 60
LOOK_SECONDS = 2

trial: list[dict[str, Any]] = []
"""The last look at each phase of the rollout."""


def main() -> int:
    began, first, bundle = time.monotonic(), get("dataset")["status"], status()["stable"]["bundle"]
    if history():
        sys.exit(
            f"demo: the model in the namespace {NAMESPACE} has learned from the laboratory already. To see it again "
            f"name another one by NAMESPACE, or delete it: kubectl delete namespace {NAMESPACE}"
        )
    captures = f"s3://fovea/captures/{NAMESPACE}/{get('modeldeployment')['metadata']['uid']}"
    lab = Laboratory(f"http://{NAME}.{NAMESPACE}.svc", first["artifact"])
    apply(captures, datetime.now(UTC) + LATER)
    with stage("a usual day"):
        wait(lambda: drift().get("version"))
        print(f"  {lab.does('usual', USUAL)}")
        usual = wait(lambda: drift() if drift().get("windows") else None)
        print(f"  drift: {usual['state']}; {usual['message']}")
    with stage("another stain, another lamp"):
        before = lab.score()
        print(f"  F1 of the model that serves: {before['f1']:.3f} of {before['images']} such images", flush=True)
        print(f"  {lab.does('changed', LABELLED)}")
        apply(captures, datetime.now(UTC) + SOON)
        detected = wait(lambda: drift() if drift()["state"] == "Detected" else None)
        print(f"  drift: {detected['state']}; {detected['message']}")
        bring(f"fovea drift report {bundle} {captures} --last {CHANGED}", "drift.html")
    with stage("a version of the labels, a run, a comparison"), lab.steady(SLOW):
        wait(lambda: candidate() or outcome())
    with stage("the rollout"), lab.steady(FAST):
        retraining = wait(outcome)
        print(f"  {retraining['outcome']}: {retraining['message']}")
    with stage("the same images again"):
        after = lab.score()
        print(f"  F1 of the model that serves: {after['f1']:.3f}; it was {before['f1']:.3f}")
    newest = get("dataset")["status"]
    story = {
        "usual": usual,
        "detected": detected,
        "before": before,
        "after": after,
        "versions": [{name: each[name] for name in ("version", "artifact", "images")} for each in (first, newest)],
        "retraining": retraining,
        "rollout": trial,
        "events": events(),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    (OUT / "loop.json").write_text(json.dumps(story, indent=2))
    if (artifact := retrained(retraining)) is not None:
        fetch_report(artifact, "retrained.html")
    summary = json.loads((OUT / "summary.json").read_text())
    for title, words in page.sentences(summary, story):
        print(f"\n{title}\n  {words}")
    print(f"\nfigures {OUT / 'loop.json'}\npage    {page.write(OUT)}")
    return 0 if retraining["outcome"] == "Promoted" else 3


def apply(captures: str, reading: datetime) -> None:
    """Applies the example, in which two values depend on place and time: captures of each deployment have a folder of
    their own, also of one that has taken the place of a deleted one, and the dataset is read again when the laboratory
    is done, and not at the next quarter of an hour."""
    text = MANIFEST.read_text().replace("s3://fovea/captures/blood-cells", captures)
    minute = (reading + timedelta(seconds=59)).minute
    text = re.sub(r'(?<=schedule: )"[^"]*"', f'"{minute} * * * *"', text)
    command = ["kubectl", "-n", NAMESPACE, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True)


# --- What the cluster says -------------------------------------------------------------------------------------------


def get(kind: str, name: str = NAME) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output("kubectl", "-n", NAMESPACE, "get", kind, name, "-o", "json"))
    return found


def status() -> dict[str, Any]:
    found: dict[str, Any] = get("modeldeployment")["status"]
    return found


def drift() -> dict[str, Any]:
    found: dict[str, Any] = status().get("drift", {})
    return found


def candidate() -> dict[str, Any] | None:
    """The version that is tried; what is known of it is kept."""
    found: dict[str, Any] | None = status().get("candidate")
    if found is not None:
        kept = ("name", "phase", "weight", "step", "analysis", "counts")
        seen = {name: found[name] for name in kept if name in found}
        trial[:] = [each for each in trial if each["phase"] != seen["phase"]] + [seen]
    return found


def history() -> list[dict[str, Any]]:
    """The retrainings, newest first."""
    found: list[dict[str, Any]] = status().get("retraining", {}).get("history", [])
    return found


def outcome() -> dict[str, Any] | None:
    """The newest retraining, once it has ended."""
    candidate()
    return next((each for each in history()[:1] if each.get("outcome") not in (None, "RollingOut")), None)


def retrained(retraining: dict[str, Any]) -> str | None:
    """Address of the model that a retraining made; None: it made none."""
    if "run" not in retraining:
        return None
    artifact: str | None = get("run", retraining["run"])["status"].get("result", {}).get("artifact")
    return artifact


def progress() -> str:
    """What goes on, on a line."""
    dataset, now = get("dataset")["status"], status()
    tried, retrainings = now.get("candidate"), now.get("retraining", {}).get("history", [])
    if tried is not None:
        asked = tried.get("counts", {}).get("candidate/total", 0)
        return f"rollout of {tried['name']}: {tried['phase']}, {tried.get('weight', 0)} %, {asked:g} requests"
    if retrainings and (run := retrainings[0].get("run")):
        found = get("run", run).get("status", {}).get("progress", {})
        return f"run {run}: {found.get('stage', 'starts')}, {found.get('percent', 0) // 20 * 20} %"
    words = now.get("retraining", {}).get("message", "")
    return f"dataset: {dataset['images']} images, {dataset.get('phase', '')}; {words}"


def events() -> list[dict[str, str]]:
    """What was reported of the deployment, the oldest first."""
    selector = f"--field-selector=involvedObject.kind=ModelDeployment,involvedObject.name={NAME}"
    found = json.loads(output("kubectl", "-n", NAMESPACE, "get", "events", selector, "-o", "json"))["items"]
    return [
        {"time": each["eventTime"] or "", "reason": each["reason"], "message": each["message"]}
        for each in sorted(found, key=lambda each: each["eventTime"] or "")
    ]


def wait(look: Callable[[], Any]) -> Any:
    """What the look gives, once it is something; prints what goes on meanwhile, and ends where nothing comes of it."""
    said, end = "", time.monotonic() + LIMIT_SECONDS
    while not (found := look()):
        if time.monotonic() > end:
            sys.exit(f"demo: nothing more happens; kubectl -n {NAMESPACE} describe modeldeployment {NAME} says why")
        if (line := progress()) != said:
            print(f"  {line}", flush=True)
            said = line
        time.sleep(LOOK_SECONDS)
    return found


# --- What the laboratory does ----------------------------------------------------------------------------------------


class Laboratory:
    """Sends images and labels to a deployment, from a pod.

    Args:
        url: The deployment's.
        version: Address of the dataset version that has the images.
    """

    def __init__(self, url: str, version: str) -> None:
        self._where = (url, version)

    def does(self, part: str, number: int = 0) -> str:
        """Lets it do a part of its work, see production.py; what it says."""
        with self._starts(part, number) as process:
            said, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(f"demo: the laboratory failed with {process.returncode}")
        return said.strip()

    def score(self) -> dict[str, Any]:
        """How well the changed images of the test split are answered now."""
        found: dict[str, Any] = json.loads(self.does("score"))
        return found

    @contextmanager
    def steady(self, rate: int) -> Iterator[None]:
        """While it sends so many changed images a minute."""
        with self._starts("steady", rate):
            yield  # the end closes its input, and by that it ends

    def _starts(self, part: str, number: int) -> subprocess.Popen[str]:
        program = ["python", "-c", (ROOT / "examples" / "production.py").read_text(), *self._where, part, str(number)]
        command = ["kubectl", "-n", NAMESPACE, "exec", "--stdin", "loader", "--", *program]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sys.exit(main())
