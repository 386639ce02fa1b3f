"""`fovea train`: the Dataset and TrainingJob of a manifest, on this machine."""

from __future__ import annotations

from pathlib import Path

import click
from fovea_api.criteria import eligible, measures_quality

from fovea_cli.manifest import manifest_options, sources_of
from fovea_cli.output import output_option, print_json, print_table


@click.command("train")
@manifest_options
@click.option("--ray", is_flag=True, help="Train on Ray (of this machine, or of RAY_ADDRESS).")
@click.option(
    "--preview",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a picture (PNG) of the first training images, augmented, with their labels, and train nothing.",
)
@output_option
def command(
    file: Path,
    store: str,
    adopt: str,
    source: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    ray: bool,
    preview: Path | None,
    output: str,
) -> None:
    """Builds the dataset version and trains the model of a manifest, as the cluster would.

    What the store holds already is adopted; an interrupted training goes on from its last checkpoint.
    Ends with 0 if the success criteria are met, with 3 if the model misses them or its quality was not measured.
    """
    from fovea_trainer.local import criteria_of, preview_manifest, train_manifest

    if preview is not None:
        import cv2

        given = sources_of(source)
        image = preview_manifest(file, store, name=name, sources=given, settings=settings, adopt=adopt)
        preview.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
        height, width = image.shape[:2]
        if output == "json":
            print_json({"preview": str(preview), "width": width, "height": height})
        else:
            click.echo(f"preview {preview}  ({width} x {height} pixels)")
        return
    result = train_manifest(file, store, ray=ray, name=name, sources=sources_of(source), settings=settings, adopt=adopt)
    verdicts = criteria_of(file, name, result, settings)
    if output == "json":
        print_json({**result.to_dict(), "successCriteria": [verdict.to_dict() for verdict in verdicts]})
    else:
        rows = [(metric, f"{value:.4g}") for metric, value in sorted(result.metrics.items())]
        print_table(rows, ("METRIC", "VALUE"))
        click.echo(f"\nbundle  {result.artifact}\nreport  {result.report}")
        for verdict in verdicts:
            click.echo(f"{'met   ' if verdict.met else 'MISSED'}  {verdict}")
    if not measures_quality(result.metrics):
        words = "the quality was not measured: the dataset has neither a validation nor a test split"
        click.echo(f"MISSED  {words}", err=True)
    if not eligible(verdicts, result.metrics):
        raise SystemExit(3)
