"""`fovea predict`: predictions of a model bundle for image files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fovea_cli.formats import model_format_option
from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.remote import bundle_folder, claim_options


@click.command("predict")
@click.argument("bundle")
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Parquet file for the predictions of many images, instead of printing them; an interrupted call goes on.",
)
@click.option("--draw", type=click.Path(file_okay=False, path_type=Path), help="Folder for the drawn images.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    help="Score from which an object is reported.  [default: the bundle's, where F1 is best on its validation split]",
)
@model_format_option("--format", "--model-format")
@click.option("--overlapping", is_flag=True, help="Report one object as several classes, where the model is in doubt.")
@click.option("--masks", is_flag=True, help="With -o json: the pixels of each class as COCO run-length encodings.")
@claim_options
@output_option
def command(
    bundle: str,
    images: tuple[Path, ...],
    target: Path | None,
    draw: Path | None,
    confidence: float | None,
    overlapping: bool,
    masks: bool,
    model_format: str | None,
    namespace: str | None,
    image: str | None,
    output: str,
) -> None:
    """Predicts IMAGES (files or folders) with a BUNDLE (folder or URI), by the code that serves it.

    The score from which objects are reported is printed, and stands beside each image's objects in JSON.
    """
    from fovea_serving.predict import predict_files

    folder = bundle_folder(bundle, namespace, image)
    if target is not None:
        if draw is not None:
            raise click.UsageError("give --to or --draw")
        _write(folder, images, target, confidence, overlapping, model_format, output)
        return
    predictions = predict_files(
        folder, images, draw, confidence=confidence, overlapping=overlapping, format_=model_format
    )
    if output == "json":
        threshold = {} if predictions.confidence is None else {"confidence": predictions.confidence}
        print_json({str(path): {**each.to_dict(masks=masks), **threshold} for path, each in predictions.files.items()})
        return
    rows = [(str(path), prediction.describe()) for path, prediction in predictions.files.items()]
    print_table(rows, ("IMAGE", "PREDICTION"))
    if predictions.confidence is not None:
        whose = (
            "the bundle's: best F1 on validation; --confidence sets another" if predictions.by_bundle else "as given"
        )
        click.echo(f"\nobjects from a score of {predictions.confidence:.3g} on ({whose})")


def _write(
    folder: Path,
    images: tuple[Path, ...],
    target: Path,
    confidence: float | None,
    overlapping: bool,
    model_format: str | None,
    output: str,
) -> None:
    from fovea_serving.bulk import predict_to_parquet
    from fovea_serving.predict import images_of

    with click.progressbar(length=len(images_of(images)), label=str(target), file=sys.stderr) as bar:
        count = predict_to_parquet(
            folder,
            images,
            target,
            confidence=confidence,
            overlapping=overlapping,
            format_=model_format,
            progress=bar.update,
        )
    if output == "json":
        print_json({"file": str(target), "images": count})
    else:
        click.echo(f"{count} images")
