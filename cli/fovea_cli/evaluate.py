"""`fovea evaluate`: how good a model bundle is on labelled images."""

from __future__ import annotations

import sys

import click

from fovea_cli.formats import model_format_option
from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.remote import bundle_folder, claim_options


@click.command("evaluate")
@click.argument("bundle")
@click.argument("dataset")
@click.option("--split", default="test", show_default=True, help="Split of a version; of a folder all images count.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    help="Score from which an object counts as reported.  [default: the bundle's]",
)
@model_format_option("--model-format")
@click.option("--format", "format_", help="Format of a folder's labels; absent: the one that the files look like.")
@claim_options
@output_option
def command(
    bundle: str,
    dataset: str,
    split: str,
    confidence: float | None,
    format_: str | None,
    model_format: str | None,
    namespace: str | None,
    image: str | None,
    output: str,
) -> None:
    """Measures a BUNDLE (folder or URI) on a DATASET, by the code that serves it.

    DATASET is a dataset version (folder or URI), a folder or archive of labelled images, or a manifest (.yaml) with a
    Dataset. Its classes must be the model's; a folder's are read as these.
    """
    from fovea_serving.bundle import load_bundle
    from fovea_trainer.use import evaluate_bundle

    loaded = load_bundle(bundle_folder(bundle, namespace, image))
    progress = _Progress()
    result = evaluate_bundle(
        loaded, dataset, split, confidence=confidence, format_=format_, model_format=model_format, progress=progress
    )
    progress.close()
    if output == "json":
        print_json(result.to_dict())
        return
    click.echo(f"{result.images:,} images, {result.split}\n")
    print_table([(name, f"{value:.4g}") for name, value in sorted(result.metrics.items())], ("METRIC", "VALUE"))
    for words in result.error_analysis:
        click.echo(f"\n{words}")


class _Progress:
    """A count of the images on a terminal; nothing elsewhere, for an evaluation prints its result."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, images: int) -> None:
        if self._live:
            click.echo(f"\r{done:,} of {images:,} images", err=True, nl=False)

    def close(self) -> None:
        if self._live:
            click.echo("\r\033[K", err=True, nl=False)
