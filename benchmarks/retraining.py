"""How often a worse model is promoted, and a better one kept: simulated retrainings with the operator's own judgement.

    python benchmarks/retraining.py --json retraining.json

Champion and challenger answer the same test images, of which they disagree on a tenth. How many only one of them has
right is drawn; the standard error of the difference is that of a paired bootstrap, which for a share has a closed form
(`tests/unit/evaluation/test_bootstrap.py` holds the bootstrap against it). Beside it stands what is commonly done: the
model with the higher value is taken.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fovea_api.metrics import DIFFERENCE, DIFFERENCE_ERROR
from fovea_api.modeldeployment import Comparison
from fovea_operator.kinds.modeldeployment.retraining import judge

IMAGES = (36, 100, 300, 1000)
"""Test images; BCCD has 36."""
DIFFERENCES = (-0.05, -0.02, -0.01, 0.0, 0.02, 0.05, 0.1)
"""True improvements of the accuracy."""
DISAGREEMENT = 0.1
SIMULATED = 20_000
PROMOTIONS = 200
Z = 1.96


@dataclass(frozen=True)
class Result:
    """Share of challengers that were promoted, with its 95 % interval by Wilson."""

    images: int
    improvement: float
    promoted: float
    low: float
    high: float
    by_value: float
    """The same where the higher value decides."""


@cache
def is_better(challenger: int, champion: int, images: int) -> bool:
    """What the operator says where so many images are right by one of them alone."""
    difference = (challenger - champion) / images
    variance = (challenger + champion) / images - difference**2
    metrics = {
        "champion/accuracy": 0.8,
        "champion/images": float(images),
        DIFFERENCE: difference,
        DIFFERENCE_ERROR: math.sqrt(variance / (images - 1)),
    }
    return judge(metrics, Comparison()).better


def simulate(random: np.random.Generator, images: int, improvements: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each true improvement whether the challenger is promoted, and whether its value is the higher one."""
    disagreement = np.maximum(DISAGREEMENT, 1.2 * np.abs(improvements))
    alone = (disagreement + improvements) / 2, (disagreement - improvements) / 2
    challenger = random.binomial(images, alone[0])
    champion = random.binomial(images - challenger, alone[1] / (1 - alone[0]))
    better = [is_better(int(one), int(other), images) for one, other in zip(challenger, champion, strict=True)]
    return np.array(better), challenger > champion


def measure(random: np.random.Generator) -> list[Result]:
    """Each size of the test split with each true improvement."""
    results = []
    for images in IMAGES:
        for improvement in DIFFERENCES:
            promoted, higher = simulate(random, images, np.full(SIMULATED, improvement))
            share = float(promoted.mean())
            middle = (share + Z**2 / (2 * SIMULATED)) / (1 + Z**2 / SIMULATED)
            half = Z * math.sqrt(share * (1 - share) / SIMULATED + (Z / (2 * SIMULATED)) ** 2) / (1 + Z**2 / SIMULATED)
            results.append(
                Result(images, improvement, share, max(middle - half, 0.0), middle + half, float(higher.mean()))
            )
    return results


def promotions(random: np.random.Generator, images: int) -> dict[str, float]:
    """Retrainings until PROMOTIONS models are promoted, half of them worse by up to 5 points and half better."""
    counts = {"judged": [0, 0], "by value": [0, 0]}
    improvements = random.uniform(-0.05, 0.05, 100 * PROMOTIONS)
    for name, taken in zip(counts, simulate(random, images, improvements), strict=True):
        promoted = improvements[taken][:PROMOTIONS]
        counts[name] = [len(promoted), int((promoted < 0).sum())]
    return {
        "images": images,
        "promotions": counts["judged"][0],
        "worse": counts["judged"][1],
        "worseByValue": counts["by value"][1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    start, random = time.monotonic(), np.random.default_rng(0)
    results = measure(random)
    print("images  improvement  promoted (95 % interval)     by the higher value")
    for each in results:
        print(
            f"{each.images:6}  {each.improvement:+11.2f}  {each.promoted:8.2%} ({each.low:.2%} to {each.high:.2%})"
            f"  {each.by_value:12.1%}"
        )
    mixed = [promotions(random, images) for images in IMAGES]
    print(f"\nOf {PROMOTIONS} promotions, challengers worse or better by up to 5 points, those of worse models:")
    for found in mixed:
        print(f"{found['images']:6} images: {found['worse']}, by the higher value {found['worseByValue']}")
    if arguments.json is not None:
        figures = {
            "simulated": SIMULATED,
            "results": [asdict(each) for each in results],
            "promotions": mixed,
            "seconds": round(time.monotonic() - start, 1),
        }
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
