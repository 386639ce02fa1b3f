"""Memory that a training frees: kept for its next step, and given back at its end."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

STEPS = """
import json, resource, torch
from fovea_trainer.training.memory import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fewest():
    "Pages that the kernel gives to a step, which frees blocks of 48 MB; to the one of eight that needs the fewest."
    counts = []
    for _ in range(8):
        before = faults()
        for _ in range(3):
            torch.empty(48 * 2**20, dtype=torch.uint8).fill_(1)
        counts.append(faults() - before)
    return min(counts)

def resident():
    return int(open("/proc/self/statm").read().split()[1])

found = {"before": fewest()}
with kept_memory(torch.device("cuda")):
    found["cuda"] = fewest()
with kept_memory(torch.device("cpu")):
    found["kept"], found["resident"] = fewest(), resident()
found["given back"] = found["resident"] - resident()
print(json.dumps(found))
"""
PAGES = 48 * 2**20 // 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is set are parameters of glibc")
def test_a_step_takes_the_memory_that_the_one_before_freed() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["before"] >= 3 * PAGES
    assert found["cuda"] >= 3 * PAGES, "on a GPU it is left as it is"
    assert found["kept"] < PAGES
    assert found["given back"] > PAGES / 2
