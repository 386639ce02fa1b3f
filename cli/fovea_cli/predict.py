"""`fovea predict`: predictions of a model bundle for image files."""

from __future__ import annotations

from pathlib import Path

import click

from fovea_cli.output import output_option, print_json, print_table


@click.command("predict")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--draw", type=click.Path(file_okay=False, path_type=Path), help="Folder for the drawn images.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    help="Score from which an object is reported.  [default: the bundle's, where F1 is best on its validation split]",
)
@click.option("--masks", is_flag=True, help="With -o json: the pixels of each class as COCO run-length encodings.")
@output_option
def command(
    bundle: Path,
    images: tuple[Path, ...],
    draw: Path | None,
    confidence: float | None,
    masks: bool,
    output: str,
) -> None:
    """Predicts IMAGES (files or folders) with a BUNDLE, by the code that serves it."""
    from fovea_serving.predict import predict_files

    predictions = predict_files(bundle, images, draw, confidence=confidence)
    if output == "json":
        print_json({str(path): prediction.to_dict(masks=masks) for path, prediction in predictions.items()})
        return
    rows = [(str(path), prediction.describe()) for path, prediction in predictions.items()]
    print_table(rows, ("IMAGE", "PREDICTION"))
