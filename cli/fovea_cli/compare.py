"""`fovea compare`: what two model bundles have in common, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click
from fovea_api.bundle import BundleManifest
from pydantic import JsonValue

from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.remote import bundle_folder, claim_options

LOWER_IS_BETTER = ("latency/", "size/")
LOWER_NAMES = ("ece", "loss")
UNRATED = ("scoreThreshold",)
"""Metrics of which neither more nor less is better."""


@click.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("--classes", is_flag=True, help="The metrics of each class, too.")
@claim_options
@output_option
def command(first: str, second: str, classes: bool, namespace: str | None, image: str | None, output: str) -> None:
    """Compares the bundles FIRST and SECOND (folders or URIs): metrics, recipes, data.

    Metrics say something only where both were measured on the same images, so it says whether they were.
    """
    from fovea_serving.bundle import load_bundle

    one, two = (load_bundle(bundle_folder(each, namespace, image)).manifest for each in (first, second))
    metrics = {
        name: (one.metrics.exported.get(name), two.metrics.exported.get(name))
        for name in sorted({*one.metrics.exported, *two.metrics.exported})
        if classes or name.count("/") == 1
    }
    differences = {name: (before, after) for name, before, after in _differences(one, two)}
    same_data = one.lineage.dataset.version == two.lineage.dataset.version
    if output == "json":
        print_json(
            {
                "metrics": {name: list(pair) for name, pair in metrics.items()},
                "differences": {name: list(pair) for name, pair in differences.items()},
                "sameDataset": same_data,
            }
        )
        return
    rows = [(name, _number(a), _number(b), _verdict(name, a, b)) for name, (a, b) in metrics.items()]
    print_table(rows, ("METRIC", "FIRST", "SECOND", "CHANGE"))
    click.echo()
    if not same_data:
        click.echo("measured on different dataset versions: the metrics are of different images\n")
    rows = [(name, _text(a), _text(b), "") for name, (a, b) in differences.items()]
    if rows:
        print_table(rows, ("DIFFERENCE", "FIRST", "SECOND", ""))
    else:
        click.echo("the recipes do not differ")


def _differences(one: BundleManifest, two: BundleManifest) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """The facts and recipe fields in which two bundles differ."""
    first, second = (dict(_flat({"recipe": dict(each.lineage.recipe), **_facts(each)})) for each in (one, two))
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            yield name, first.get(name), second.get(name)


def _facts(bundle: BundleManifest) -> dict[str, JsonValue]:
    lineage = bundle.lineage
    return {
        "classes": list(bundle.classes),
        "dataset": lineage.dataset.version,
        "baseWeights": lineage.base_weights,
        "bestEpoch": lineage.best_epoch,
        "confidenceThreshold": bundle.postprocessing.confidence_threshold,
        "precision": bundle.precision or "FP32",
    }


def _flat(value: Mapping[str, JsonValue], path: str = "") -> Iterator[tuple[str, JsonValue]]:
    for name, item in value.items():
        place = f"{path}.{name}" if path else name
        if isinstance(item, Mapping):
            yield from _flat(item, place)
        else:
            yield place, item


def _verdict(name: str, first: float | None, second: float | None) -> str:
    """The change, and whether it is for the better."""
    if first is None or second is None or first == second:
        return ""
    change = second - first
    short = name.split("/")[1]
    if short in UNRATED:
        return f"{change:+.4g}"
    lower = name.startswith(LOWER_IS_BETTER) or short in LOWER_NAMES
    return f"{change:+.4g} {'better' if (change < 0) == lower else 'worse'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: JsonValue) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 48 else f"{text[:47]}…"
