"""Mutates the operator's decisions and its writer, and counts which changes its unit tests notice: `make mutants`.

mutmut wants one folder of sources, and this repository has one for each part, so it works on a copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTATED = ("queue.py", "apply.py", "engine.py", "kinds/*/plan.py", "runs/lifecycle.py", "runs/plan.py")
"""Below fovea_operator."""
WORDS = (r"logger\.", r"name=f?\"")
"""Lines whose words are for people who look for a fault: nothing depends on them."""
LEAST = 0.85
"""Share of the mutants that must be noticed."""
NOTICED = ("killed", "timeout", "caught by type check", "segfault")


def main(patterns: list[str]) -> int:
    """Mutates the files given, or all of MUTATED; prints the mutants that survive. Returns 1 below LEAST."""
    with tempfile.TemporaryDirectory(prefix="fovea-mutants-") as folder:
        work = Path(folder)
        for package in ROOT.glob("[a-z]*/fovea_*"):
            shutil.copytree(package, work / "src" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("tests/unit/operator", "docs"):
            shutil.copytree(ROOT / part, work / part, ignore=shutil.ignore_patterns("__pycache__"))
        only = [f"src/fovea_operator/{pattern}" for pattern in patterns or MUTATED]
        (work / "pyproject.toml").write_text(
            f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n"
            f'source_paths = ["src"]\nonly_mutate = {only}\nalso_copy = ["docs"]\n'
            f"do_not_mutate_patterns = {list(WORDS)}\ntimeout_multiplier = 5.0\n"
            'pytest_add_cli_args = ["-p", "no:cacheprovider"]\n'
            'pytest_add_cli_args_test_selection = ["tests/unit/operator"]\n'
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
    print(f"{len(results)} mutants: {dict(count)}; {share:.1%} noticed, at least {LEAST:.0%} must be")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
