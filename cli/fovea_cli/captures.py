"""`fovea captures`: what a deployment has kept, out to labelling and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from fovea_api.common import parse_duration
from fovea_api.errors import InvalidInput

if TYPE_CHECKING:
    from fovea_serving.captures import CaptureStore
    from fovea_serving.captures.cvat import Server

_FORMAT = click.Choice(("COCO", "CVAT", "LabelStudio"))
_credentials = click.option(
    "--store-credentials", envvar="FOVEA_STORE_CREDENTIALS", help="Folder of the store's credentials."
)


@click.group("captures")
def command() -> None:
    """Captured images: list them, export them for labelling, import the labels, delete them.

    URI is spec.monitoring.captures.uri of the ModelDeployment, or a local copy of that folder.
    """


@command.command("list")
@click.argument("uri")
@_credentials
def list_captures(uri: str, store_credentials: str | None) -> None:
    """Prints a line for each captured request."""
    for each in _store(uri, store_credentials).all():
        capture, known = each.capture, "labelled" if each.label is not None else "unlabelled"
        scores = [image.confidence for image in capture.images if image.confidence is not None]
        least = f"{min(scores):.2f}" if scores else "-"
        click.echo(
            f"{capture.time:%Y-%m-%dT%H:%M:%SZ}  {capture.id}  {capture.run}  {capture.reason}  {least}  {known}"
        )


@command.command("export")
@click.argument("uri")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--format", "form", type=_FORMAT, default="COCO", show_default=True, help="Form of the annotations.")
@click.option("--labels", is_flag=True, help="Labelled images with their labels, as a source of a Dataset.")
@click.option("--most", type=click.IntRange(1), help="Images at most, those first whose labels would teach most.")
@_credentials
def export_captures(
    uri: str, folder: Path, form: str, labels: bool, most: int | None, store_credentials: str | None
) -> None:
    """Writes unlabelled images with the model's predictions into FOLDER, those first that are worth a label most."""
    from fovea_serving.captures.exchange import export, in_order_of_use, pictures

    store = _store(uri, store_credentials)
    chosen = [each for each in pictures(store) if (each.label is not None) == labels]
    if not labels:
        chosen = in_order_of_use(store, chosen, most)
    export(store, chosen[:most], folder, form, labels=labels)
    click.echo(f"{len(chosen[:most])} images: {folder}")


@command.command("import")
@click.argument("uri")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", type=_FORMAT, default="COCO", show_default=True, help="Form of the annotations.")
@_credentials
def import_labels(uri: str, file: Path, form: str, store_credentials: str | None) -> None:
    """Keeps the labels of FILE beside the captures that they are of."""
    from fovea_serving.captures.exchange import take_labels

    taken, unknown = take_labels(_store(uri, store_credentials), file, form)
    click.echo(f"{taken} requests are labelled; {unknown} images belong to none that is kept as a whole")


def _cvat_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--organization", help="Organization of the task; absent: the user's own."),
        click.option("--password", envvar="CVAT_PASSWORD", help="Its password; CVAT_PASSWORD."),
        click.option("--user", envvar="CVAT_USER", default="", help="Name at CVAT; CVAT_USER."),
        click.option("--token", envvar="CVAT_ACCESS_TOKEN", help="Access token in place of both; CVAT_ACCESS_TOKEN."),
        _credentials,
    ):
        command = option(command)
    return command


@command.command("push")
@click.argument("uri")
@click.argument("server")
@click.option("--name", default="captures", show_default=True, help="Name of the task.")
@click.option("--class", "classes", multiple=True, help="A label of the task beside those that are predicted.")
@click.option("--most", type=click.IntRange(1), help="Images at most, those first whose labels would teach most.")
@_cvat_options
def push_to_cvat(
    uri: str,
    server: str,
    name: str,
    classes: tuple[str, ...],
    most: int | None,
    store_credentials: str | None,
    **who: str | None,
) -> None:
    """Makes a task of unlabelled images on a CVAT SERVER (its URL), with the predictions as annotations."""
    from fovea_serving.captures.cvat import push
    from fovea_serving.captures.exchange import in_order_of_use, pictures

    store = _store(uri, store_credentials)
    chosen = in_order_of_use(store, [each for each in pictures(store) if each.label is None], most)
    if not chosen:
        raise InvalidInput("no image waits for a label", uri)
    number = push(store, chosen, _server(server, who), name, classes)
    click.echo(f"{len(chosen)} images: task {number}")


@command.command("pull")
@click.argument("uri")
@click.argument("server")
@click.argument("task", type=click.IntRange(1))
@_cvat_options
def pull_from_cvat(uri: str, server: str, task: int, store_credentials: str | None, **who: str | None) -> None:
    """Keeps the labels of the completed jobs of a TASK (its number) on a CVAT SERVER."""
    from fovea_serving.captures.cvat import pull

    taken, unknown = pull(_store(uri, store_credentials), _server(server, who), task)
    click.echo(f"{taken} requests are labelled; {unknown} images belong to none that is kept as a whole")


@command.command("delete")
@click.argument("uri")
@click.argument("request_ids", nargs=-1)
@click.option("--exclude", help="File that spec.exclude of a Dataset names: images that it lists, by digest or name.")
@_credentials
def delete_captures(uri: str, request_ids: tuple[str, ...], exclude: str | None, store_credentials: str | None) -> None:
    """Deletes images, answers and labels of requests, as for a person who withdrew."""
    from fovea_api.dataset import excluded
    from fovea_serving.captures.exchange import listed_in
    from fovea_store import StorePath

    store = _store(uri, store_credentials)
    listed = listed_in(store, excluded(StorePath.parse(exclude).read_text())) if exclude is not None else []
    if not request_ids and exclude is None:
        raise click.UsageError("give ids of requests, or --exclude")
    for request_id in (*request_ids, *listed):
        click.echo(f"{request_id}: {'deleted' if store.delete(request_id) else 'nothing is kept'}")


@command.command("expire")
@click.argument("uri")
@click.option("--older", required=True, help="Age from which a day is deleted as a whole, such as 720h.")
@_credentials
def expire_captures(uri: str, older: str, store_credentials: str | None) -> None:
    """Deletes the days that are older, as gateways do: of a deployment that was deleted nobody else does."""
    try:
        retention = parse_duration(older)
    except ValueError as error:
        raise click.BadParameter(f"{older!r} is no duration such as 720h", param_hint="--older") from error
    days = _store(uri, store_credentials, retention).expire(datetime.now(UTC))
    click.echo(f"{days} {'day' if days == 1 else 'days'} deleted")


def _server(url: str, who: Mapping[str, str | None]) -> Server:
    from fovea_serving.captures.cvat import Server

    user, password = who["user"] or "", who["password"] or ""
    if not who["token"] and not (user and password):
        raise click.UsageError("give --token, or --user and --password")
    return Server(url, who["token"], user, password, who["organization"])


def _store(uri: str, credentials: str | None, retention: timedelta = timedelta.max) -> CaptureStore:
    from fovea_serving.captures import CaptureStore
    from fovea_store import StorePath

    return CaptureStore(StorePath.parse(uri, credentials), retention)
