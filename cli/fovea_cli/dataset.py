"""`fovea dataset`: what can be done with datasets on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fovea_cli.manifest import manifest_options, sources_of
from fovea_cli.output import output_option, print_json, print_table
from fovea_cli.remote import bundle_folder, claim_options

if TYPE_CHECKING:
    from fovea_api.version import DatasetSummary, FindingSummary
    from fovea_trainer.data.findings import Tally

SHOWN_FINDINGS = 5
"""Findings of a kind that `check` prints; JSON has them all."""


@click.group("dataset")
def command() -> None:
    """Builds and checks datasets."""


@command.command("build")
@manifest_options
@output_option
def build(
    file: Path,
    store: str,
    adopt: str,
    source: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    output: str,
) -> None:
    """Builds the version of a manifest's Dataset: reads, checks, splits, and writes it to the store."""
    from fovea_trainer.local import build_manifest

    result = build_manifest(file, store, name=name, sources=sources_of(source), settings=settings, adopt=adopt)
    if output == "json":
        print_json(result.to_dict())
        return
    assert result.dataset is not None
    print_summary(result.dataset)
    _print_findings(result.dataset.findings)
    click.echo(f"\nversion  {result.digest}\nartifact {result.artifact}\nreport   {result.report}")


@command.command("check")
@click.argument("place", type=click.Path(exists=True, path_type=Path))
@click.option("--format", "format_", help="Format of the labels; absent: the one that the files look like.")
@click.option("--task", help="Such as Detection or InstanceSegmentation; absent: what the format is for.")
@click.option("--class", "classes", multiple=True, help="A class, in order of the index; absent: as the labels say.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that read images.")
@output_option
def check(
    place: Path, format_: str | None, task: str | None, classes: tuple[str, ...], workers: int, output: str
) -> None:
    """Says all that a build would find in PLACE, and builds nothing.

    PLACE is a folder or an archive, or a manifest (.yaml) with a Dataset. Ends with 1 where the build would be refused.
    """
    from fovea_api.dataset import Format
    from fovea_trainer.local import check_folder, check_manifest

    if place.suffix in (".yaml", ".yml"):
        if format_ or task or classes:
            raise click.UsageError("the manifest says format, task and classes; remove the options")
        recipe, result = check_manifest(place, workers)
    else:
        recipe, result = check_folder(place, format_, task, classes, workers)
    formats = ", ".join(str(source.format or Format.VIDEO) for source in recipe.sources if source.location is not None)
    if output == "json":
        print_json(
            {
                "format": formats,
                "task": str(recipe.task),
                "summary": None if result.summary is None else result.summary.to_dict(),
                "findings": [tally.to_dict() for tally in result.findings],
                "refusal": None if result.refusal is None else str(result.refusal),
            }
        )
    else:
        click.echo(f"read as {formats} for {recipe.task}\n")
        if result.summary is not None:
            print_summary(result.summary)
        print_all(result.findings)
        click.echo("\nthe build would be refused" if result.refusal else "\nit can be built")
    if result.refusal is not None:
        raise result.refusal


@command.command("export")
@click.argument("version")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--split", default="test", show_default=True, help="The split that is written.")
@click.option(
    "--predictions", "bundle", help="A bundle (folder or URI) whose predictions are written beside the labels."
)
@claim_options
@output_option
def export(
    version: str, folder: Path, split: str, bundle: str | None, namespace: str | None, image: str | None, output: str
) -> None:
    """Writes a split of a VERSION (folder or URI) to a FOLDER as other tools read it.

    data/ has the images, labels.json the labels as COCO, predictions.json what a detector predicts as COCO results. So
    FiftyOne, CVAT and other tools open it.
    """
    import tempfile

    from fovea_serving.bundle import load_bundle
    from fovea_serving.predictor import Predictor
    from fovea_store import StorePath
    from fovea_trainer.data.coco_folder import write_folder
    from fovea_trainer.data.version import open_version

    predictor = None
    if bundle is not None:
        predictor = Predictor.from_bundle(load_bundle(bundle_folder(bundle, namespace, image)))
    with tempfile.TemporaryDirectory(prefix="fovea-export-") as work:
        count = write_folder(open_version(version, work), StorePath.parse(version), split, folder, predictor)
    if output == "json":
        print_json({"folder": str(folder), "split": split, "images": count, "predictions": bundle is not None})
        return
    click.echo(f"{count} images of {split} with their labels{' and predictions' if bundle else ''} in {folder}")


def print_summary(summary: DatasetSummary) -> None:
    """Images of each split; images and annotations of each class."""
    print_table([(name, f"{count}") for name, count in summary.splits.items()], ("SPLIT", "IMAGES"))
    click.echo()
    rows = [(each.name, f"{each.images}", f"{each.annotations}") for each in summary.classes]
    print_table(rows, ("CLASS", "IMAGES", "ANNOTATIONS"))


def _print_findings(findings: Sequence[FindingSummary]) -> None:
    if findings:
        click.echo()
        rows = [(str(each.severity), each.kind, f"{each.count}", each.message) for each in findings]
        print_table(rows, ("SEVERITY", "FINDING", "COUNT", "WHAT"))


def print_all(findings: Sequence[Tally]) -> None:
    """The findings, with what they mean, what to do, and the first places of each kind."""
    for tally in findings:
        kind = tally.kind
        images = f" in {tally.images} images" if tally.images else ""
        click.echo(f"\n{tally.severity}: {kind.heading} ({kind}), {tally.count} times{images}; {kind.done}")
        click.echo(f"  {kind.meaning}\n  {kind.remedy}")
        for one in tally.examples[:SHOWN_FINDINGS]:
            click.echo(f"    {one}" + (f" ({one.remedy})" if one.remedy else ""))
        if tally.count > SHOWN_FINDINGS:
            click.echo(f"    … {tally.count - SHOWN_FINDINGS} more")
