"""Memory that a training frees: kept for its next step, and given back at its end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
from fovea_trainer.training.memory import ray_runtime_env

STEPS = """
import ctypes, json, resource, threading, torch
from fovea_trainer.training.memory import kept_memory

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a page is a page
PAGES = 80 * 2**20 // resource.getpagesize()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fewest():
    "Of ten steps that take three blocks of 80 MB and free them, the fewest faults, in pages of a block."
    counts = []
    for _ in range(10):
        before = faults()
        blocks = [torch.empty(80 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(3)]
        del blocks
        counts.append(faults() - before)
    return min(counts) / PAGES

def resident():
    return int(open("/proc/self/statm").read().split()[1]) / PAGES

def measure():
    found["before"] = fewest()
    with kept_memory(torch.device("cuda")):
        found["on a GPU"] = fewest()
    with kept_memory(torch.device("cpu")):
        found["kept"], large = fewest(), resident()
    found["given back"] = large - resident()

found = {}
THREAD
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is set are parameters of glibc")
@pytest.mark.parametrize("on_ray", [False, True])
def test_a_step_takes_the_memory_that_the_one_before_freed(on_ray: bool) -> None:
    """Ray's workers train in a thread."""
    run = "thread = threading.Thread(target=measure); thread.start(); thread.join()" if on_ray else "measure()"
    variables = ray_runtime_env({"CPU": 1})["env_vars"] if on_ray else {}
    script = STEPS.replace("THREAD", run)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    found = json.loads(done.stdout)
    assert found["before"] >= 3
    assert found["on a GPU"] >= 3
    assert found["kept"] < 1
    assert found["given back"] > 2


def test_workers_with_gpus_have_the_memory_of_any_process() -> None:
    assert ray_runtime_env({"CPU": 4, "GPU": 1}) == {}
