"""What the order of labelling gains: accuracy by the number of labels, against a random pick.

    python benchmarks/labelling.py --json labelling.json

Images: `apt-get install dataset-fashion-mnist` (MIT). A softmax regression starts from 100 labelled images; in each of
eight rounds 100 more of a pool of 3,000 are labelled and it is trained anew; accuracy is that on 10,000 others. The
order is that of `fovea captures export` (fovea_serving.captures.exchange.k_centre on 16x16 thumbnails, weighted by how
unsure the model is), and for comparison its two halves alone.

Two pools: as it comes; and as a camera gives it, 300 scenes of ten pictures that differ by a shift of a pixel and by
noise, four fifths of them of three classes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fovea_serving.captures.exchange import k_centre
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pick = Callable[[Floats, Floats, int, np.random.Generator], NDArray[np.int64]]
FOLDER = Path("/usr/share/datasets/fashion-mnist")
POOL, FIRST, EACH, ROUNDS = 3_000, 100, 100, 8


def load(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)


def scenes(
    images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ten pictures of each of 300 scenes, mostly of three classes."""
    common = np.isin(labels, (0, 1, 2))
    count = POOL // 10
    of_common = random.choice(np.flatnonzero(common), count * 4 // 5, replace=False)
    chosen = np.concatenate((of_common, random.choice(np.flatnonzero(~common), count - len(of_common), replace=False)))
    shown = []
    for index in np.repeat(chosen, 10):
        moved = np.roll(images[index], random.integers(-1, 2, 2), (0, 1)).astype(np.float64)
        shown.append(np.clip(np.rint(moved + random.normal(0, 4, moved.shape)), 0, 255).astype(np.uint8))
    return np.stack(shown), np.repeat(labels[chosen], 10)


def flat(images: NDArray[np.uint8]) -> Floats:
    return np.concatenate((images.reshape(len(images), -1) / 255, np.ones((len(images), 1))), 1)


def trained(x: Floats, labels: NDArray[np.int64], epochs: int = 150) -> Floats:
    """Weights of a softmax regression, by gradient descent with momentum."""
    target, weights, speed = np.eye(10)[labels], np.zeros((x.shape[1], 10)), np.zeros((x.shape[1], 10))
    for _ in range(epochs):
        speed = 0.9 * speed - 0.05 * (x.T @ (softmax(x @ weights) - target) / len(x) + 1e-4 * weights)
        weights += speed
    return weights


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def at_random(places: Floats, best: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return random.permutation(len(places))[:count]


def by_order(places: Floats, best: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.array(k_centre(places, 1.05 - best, count))


def by_uncertainty(places: Floats, best: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.argsort(best)[:count]


def by_diversity(places: Floats, best: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.array(k_centre(places, np.ones(len(places)), count))


PICKS: dict[str, Pick] = {
    "random": at_random,
    "fovea": by_order,
    "uncertainty alone": by_uncertainty,
    "diversity alone": by_diversity,
}


def curve(
    pick: Pick, pool: tuple[NDArray[np.uint8], NDArray[np.int64]], test: tuple[Floats, NDArray[np.int64]], seed: int
) -> list[float]:
    """Accuracy after each round."""
    random, (images, labels) = np.random.default_rng(seed), pool
    x = flat(images)
    places = np.stack([cv2.resize(each, (16, 16), interpolation=cv2.INTER_AREA).reshape(-1) for each in images]) / 255
    known = list(random.permutation(len(images))[:FIRST])
    found = []
    for round_ in range(ROUNDS + 1):
        weights = trained(x[known], labels[known])
        found.append(float(((test[0] @ weights).argmax(1) == test[1]).mean()))
        if round_ < ROUNDS:
            left = np.setdiff1d(np.arange(len(images)), known)
            known += list(left[pick(places[left], softmax(x[left] @ weights).max(1), EACH, random)])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images, labels = load("train")
    shown, right = load("t10k")
    test = (flat(shown), right)
    figures: dict[str, Any] = {}
    for kind in ("as it comes", "scenes"):
        curves: dict[str, list[list[float]]] = {name: [] for name in PICKS}
        for seed in range(arguments.seeds):
            random, began = np.random.default_rng(1000 + seed), time.perf_counter()
            chosen = random.permutation(len(images))[:POOL]
            pool = scenes(images, labels, random) if kind == "scenes" else (images[chosen], labels[chosen])
            for name, pick in PICKS.items():
                curves[name].append(curve(pick, pool, test, seed))
            print(f"{kind}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
            figures[kind] = {"seeds": seed + 1, **summary(curves)}
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(figures[kind], indent=1), flush=True)


def summary(curves: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Mean accuracies, gains over the random pick of the same seed with intervals of 95 %, and the labels that it takes
    to be as good as the random pick is with all of its own."""
    random = np.array(curves["random"])
    goal, found = random[:, -1].mean(), {}
    for name, rows in curves.items():
        values = np.array(rows)
        gains = values - random
        width = np.zeros(0) if len(gains) < 2 else interval(gains)
        reached = np.flatnonzero(values.mean(0) >= goal)
        found[name] = {
            "accuracy": values.mean(0).round(4).tolist(),
            "gain": gains.mean(0).round(4).tolist(),
            "gain, half of the interval": width.round(4).tolist(),
            "labels for the random pick's last accuracy": FIRST + EACH * int(reached[0]) if len(reached) else None,
        }
    return found


def interval(gains: Floats) -> Floats:
    """Half of an interval of 95 % of the mean over seeds [seeds, rounds], by Student's t."""
    from scipy.stats import t

    return np.asarray(t.ppf(0.975, len(gains) - 1) * gains.std(0, ddof=1) / np.sqrt(len(gains)))


if __name__ == "__main__":
    main()
