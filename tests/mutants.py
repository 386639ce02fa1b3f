"""Mutates what is decided and calculated, and counts which changes the unit tests notice: `make mutants`.

mutmut wants one folder of sources, and this repository has one for each part, so it works on a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Area:
    """Files below a package, the tests that must notice what is changed in them, and the least share of it."""

    package: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    least: float


AREAS = {
    "operator": Area(
        "fovea_operator",
        ("queue.py", "apply.py", "engine.py", "kinds/*/plan.py", "runs/lifecycle.py", "runs/plan.py"),
        ("tests/unit/operator",),
        0.85,
    ),
    "training": Area(
        "fovea_trainer/training",
        ("schedule.py", "order.py", "optimizer.py"),
        tuple(f"tests/unit/training/test_{name}.py" for name in ("schedule", "order", "optimizer")),
        0.8,
    ),
}
WORDS = (r"logger\.", r"name=f?\"")
"""Lines whose words are for people who look for a fault: nothing depends on them."""
NOTICED = ("killed", "timeout", "caught by type check", "segfault")


def main(names: list[str]) -> int:
    """Mutates the areas given, or all; prints the mutants that survive. Returns 1 where too many do."""
    return max(mutate(AREAS[name]) for name in names or AREAS)


def mutate(area: Area) -> int:
    """Whether too many changes of an area go unnoticed, 0 or 1."""
    with tempfile.TemporaryDirectory(prefix="fovea-mutants-") as folder:
        work = Path(folder)
        for package in ROOT.glob("[a-z]*/fovea_*"):
            shutil.copytree(package, work / "src" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("tests", "docs"):
            shutil.copytree(ROOT / part, work / part, ignore=shutil.ignore_patterns("__pycache__"))
        only = [f"src/{area.package}/{file}" for file in area.files]
        (work / "pyproject.toml").write_text(
            f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n"
            f'source_paths = ["src"]\nonly_mutate = {only}\nalso_copy = ["docs"]\n'
            f"do_not_mutate_patterns = {list(WORDS)}\ntimeout_multiplier = 5.0\n"
            'pytest_add_cli_args = ["-p", "no:cacheprovider"]\n'
            f"pytest_add_cli_args_test_selection = {list(area.tests)}\n"
        )
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
        mutmut = [sys.executable, "-m", "mutmut"]
        with (work / "log").open("w") as log:
            subprocess.run([*mutmut, "run"], cwd=work, env=environ, stdout=log, stderr=log, check=False)
        listed = subprocess.run(
            [*mutmut, "results", "--all", "true"], cwd=work, env=environ, capture_output=True, text=True, check=False
        )
        results = [line.strip().split(": ") for line in listed.stdout.splitlines() if ": " in line]
        if not results:
            print((work / "log").read_text()[-3000:])
            return 1
        for name, result in results:
            if result not in NOTICED:
                shown = subprocess.run([*mutmut, "show", name], cwd=work, env=environ, capture_output=True, text=True)
                print(f"{name}: {result}\n{shown.stdout}")
    count = Counter(result for _, result in results)
    share = sum(count[result] for result in NOTICED) / len(results)
    print(f"{len(results)} mutants: {dict(count)}; {share:.1%} noticed, at least {area.least:.0%} must be")
    return 0 if share >= area.least else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
