"""`fovea drift`: what has changed since the model was made, as a report with pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from fovea_api.common import parse_duration
from fovea_api.errors import InvalidInput
from fovea_api.modeldeployment import ModelDeployment, StableVersion

from fovea_cli.kubectl import get_deployment
from fovea_cli.remote import bundle_folder, claim_options, open_remote

if TYPE_CHECKING:
    from fovea_store import StorePath


@click.group("drift")
def command() -> None:
    """What images and answers are like now, against those that the model was measured on."""


@command.command("report")
@click.argument("bundle", required=False)
@click.argument("captures", required=False)
@click.option("--deployment", "-d", help="A ModelDeployment, whose bundle, captures and state are taken.")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("drift.html"),
    show_default=True,
    help="File that the report is written to.",
)
@click.option("--last", default="24h", show_default=True, help="Images of the last so long before the newest one.")
@click.option("--run", help="Version of the model whose answers count.  [default: the bundle's run]")
@click.option("--store-credentials", envvar="FOVEA_STORE_CREDENTIALS", help="Folder of the store's credentials.")
@claim_options
def report(
    bundle: str | None,
    captures: str | None,
    deployment: str | None,
    to: Path,
    last: str,
    run: str | None,
    store_credentials: str | None,
    namespace: str | None,
    image: str | None,
) -> None:
    """Writes what has changed: features, histograms, estimated accuracy, and pictures of then and now.

    BUNDLE (folder or URI) is the model, CAPTURES spec.monitoring.captures.uri of the ModelDeployment, or a local copy
    of that folder. With --deployment both may be left out.
    """
    from fovea_serving.bundle import load_bundle
    from fovea_serving.captures import CaptureStore
    from fovea_serving.captures.live import live_profile, most_different
    from fovea_serving.pipeline import decode
    from fovea_store import StorePath
    from fovea_trainer.report.drift import SHOWN, DriftReport, ShownPicture, render_drift_report

    try:
        length = parse_duration(last)
    except ValueError as error:
        raise click.BadParameter(f"{last!r} is no duration such as 24h", param_hint="--last") from error
    status = name = None
    if deployment is not None:
        found = get_deployment(deployment, namespace)
        stable, name = _served(found), found.metadata.name
        bundle, captures, run = bundle or stable.bundle, captures or _captures_of(found), run or stable.name
        status = found.status.drift if found.status is not None else None
    if bundle is None or captures is None:
        raise click.UsageError("give BUNDLE and CAPTURES, or --deployment")
    loaded = load_bundle(bundle_folder(bundle, namespace, image))
    reference, run = loaded.profile(), run or loaded.manifest.lineage.run
    if reference is None:
        words = "train the model with a version of Fovea that writes one"
        raise InvalidInput("the bundle has no reference profile", bundle, words)
    with _folder(captures, store_credentials, namespace, image) as folder:
        store = CaptureStore(folder, length)
        live = live_profile(store, loaded.manifest, reference, run, length)
        shown = [
            ShownPicture(each, decode(store.read_image(each.picture.found, each.picture.index)))
            for each in most_different(live.pictures, SHOWN)
        ]
        text = render_drift_report(DriftReport(name or run, reference, live, shown, status))
    StorePath.parse(str(to)).write_text(text)
    click.echo(str(to))


@contextmanager
def _folder(uri: str, credentials: str | None, namespace: str | None, image: str | None) -> Iterator[StorePath]:
    """The folder of captures; that of a claim, which outside of a cluster is reached through a pod, as a copy."""
    from fovea_store import StorePath
    from fovea_store.claims import is_outside

    if not is_outside(uri):
        yield StorePath.parse(uri, credentials)
        return
    with tempfile.TemporaryDirectory(prefix="fovea-captures-") as work:
        with open_remote(uri, namespace, image) as remote:
            paths = [entry.path for entry in remote.files() if "/answers/" not in entry.path]
            remote.receive(Path(work), paths, lambda count: None)
        yield StorePath.parse(work)


def _served(deployment: ModelDeployment) -> StableVersion:
    """The version that serves. Raises InvalidInput where there is none."""
    stable = deployment.status.stable if deployment.status is not None else None
    if stable is None:
        name = deployment.metadata.name
        raise InvalidInput(f"the ModelDeployment {name} serves nothing yet", None, f"kubectl describe md {name}")
    return stable


def _captures_of(deployment: ModelDeployment) -> str:
    """The folder of its captures. Raises InvalidInput where it has none."""
    monitoring = deployment.spec.monitoring
    if monitoring is None or monitoring.captures is None:
        words = f"the ModelDeployment {deployment.metadata.name} captures nothing"
        raise InvalidInput(words, "spec.monitoring.captures", "name a folder for captured images there")
    return monitoring.captures.uri
