"""Real bundles are rolled out under load: a good one takes over, those that cannot be loaded, are slow or err are taken
out, and no request fails that did not fall to the candidate."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fovea_serving.gateway.routing import Routing, Version

from tests.candidates import slow, unloadable, with_network, wrong
from tests.cluster.conftest import Demo
from tests.cluster.test_serving import IMAGE, KIND, NAME, address, settled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
WEIGHT = 50
ROLLOUT = {
    "strategy": "Canary",
    "steps": [WEIGHT],
    "interval": "20s",
    "minRequests": 80,
    "confidence": 0.9,
    "gates": [{"metric": "errorRate", "max": 0.1}, {"metric": "latencyP95Milliseconds", "max": 2500}],
}
"""Loose gates, which a few requests decide."""
SLOW_SECONDS = 4.0
"""Time of a slow answer on an idle core, which its gate does not allow. On a busy one it may be none in time: 504."""
FALLS = Routing(
    [Version("stable", "Stable", 100 - WEIGHT, None), Version("new", "Candidate", WEIGHT, None)]  # type: ignore[arg-type]
)
"""To whom an id falls while the candidate has its share."""


@dataclass
class Asked:
    """What became of the requests, by their ids."""

    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        return [request for request, status in self.statuses.items() if status != 200]


@contextmanager
def load(demo: Demo) -> Iterator[Asked]:
    """Two clients that ask without a pause: of the slow candidate at most one waits for the other."""
    asked, stop, where = Asked(), threading.Event(), f"http://{address(demo)}/v1/predict"

    def ask() -> None:
        while not stop.is_set():
            name = uuid.uuid4().hex
            request = urllib.request.Request(where, IMAGE.read_bytes(), {"X-Request-Id": name})
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    asked.statuses[name] = response.status
            except urllib.error.HTTPError as error:
                asked.statuses[name] = error.code
            except OSError:  # no answer at all
                asked.statuses[name] = 0

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield asked
    finally:
        stop.set()
        for client in clients:
            client.join()


def status(demo: Demo) -> Any:
    return demo.object(KIND, NAME)["status"]


def serving(demo: Demo) -> dict[str, Any]:
    """The stable version, without the number of replicas: Ray's workers are those of all versions together."""
    return {name: value for name, value in status(demo)["stable"].items() if name != "replicas"}


def reported(demo: Demo) -> Counter[str]:
    """The events about the deployment so far, by reason."""
    return Counter(reason for reason, _ in demo.events(NAME))


def patch(demo: Demo, **spec: Any) -> None:
    demo.kubectl("-n", demo.namespace, "patch", KIND, NAME, "--type=merge", f"--patch={json.dumps({'spec': spec})}")


def ended(demo: Demo, bundle: str) -> bool:
    """Whether a bundle was promoted or rolled back, and nothing is left of the other one."""
    now = status(demo)
    return bundle in (now["stable"]["bundle"], now.get("rolledBack", {}).get("bundle")) and not (
        {"candidate", "retiring"} & now.keys()
    )


@pytest.fixture
def rolled_out(demo: Demo) -> Iterator[Any]:
    """What serves, with rollouts by loose gates; in the end the demo's own spec is back."""
    demo.until(lambda: settled(demo))
    before = demo.object(KIND, NAME)["spec"]
    patch(demo, rollout=ROLLOUT)
    yield serving(demo)
    patch(
        demo,
        rollout={**dict.fromkeys(ROLLOUT), **before["rollout"]},
        model={"uri": None, **before["model"]},
    )
    demo.until(lambda: settled(demo) and "run" in status(demo)["stable"])


def test_good_slow_wrong_and_crashing_candidates_under_load(demo: Demo, rolled_out: Any) -> None:
    source = demo.stored(rolled_out["bundle"])
    folder = demo.stored(f"{rolled_out['bundle'].rstrip('/').rpartition('/')[0]}/candidates")
    photo, before = IMAGE.read_bytes(), reported(demo)
    bad = {
        "unloadable": with_network(source, folder, unloadable),
        "wrong": with_network(source, folder, wrong(photo)),
        "slow": with_network(source, folder, slow(SLOW_SECONDS)),
    }
    for kind, bundle in bad.items():
        with load(demo) as asked:
            patch(demo, model={"uri": bundle, "trainingJobRef": None})
            demo.until(lambda bundle=bundle: ended(demo, bundle), 480)
        failed = status(demo)["rolledBack"]
        assert failed["reason"] == ("CandidateFailed" if kind == "unloadable" else "GateFailed"), failed
        gates = {each["metric"] for each in failed.get("analysis", ()) if each["outcome"] == "Fail"}
        assert {"wrong": "errorRate", "slow": "latencyP95Milliseconds"}.get(kind) in {*gates, None}
        assert serving(demo) == rolled_out, "what served before is as it was"
        assert demo.ready(KIND, NAME)[0] == "True"
        assert demo.condition(KIND, NAME, "Stalled")["reason"] == "RolledBack"
        assert {FALLS.choose(request).name for request in asked.failed} <= {"new"}, "a request to stable failed"
        assert asked.failed if kind == "wrong" else not asked.failed or kind == "slow", kind
        print(f"{kind}: {len(asked.failed)} of {len(asked.statuses)} requests failed; {failed['message']}")
    good = str(folder / "copies" / source.name)
    for entry in source.files():
        (demo.stored(good) / entry.path).write_bytes((source / entry.path).read_bytes())
    with load(demo) as asked:
        patch(demo, model={"uri": good, "trainingJobRef": None})
        demo.until(lambda: ended(demo, good), 480)
    assert status(demo)["stable"]["bundle"] == good, status(demo).get("rolledBack")
    assert asked.failed == []
    story = reported(demo) - before
    assert story["RolledBack"] == 3
    assert {"RolloutStarted", "StepStarted", "Promoted"} <= story.keys()
    described = demo.kubectl("-n", demo.namespace, "describe", KIND, NAME)
    assert "errorRate, is" in described
