"""`fovea gateway`: the process that a ModelDeployment's requests come to."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("gateway")
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the configuration (gateway.json); it is followed.",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port of requests.")
@click.option(
    "--admin-port", default=9090, show_default=True, type=click.IntRange(1, 65535), help="Port of probes and metrics."
)
@click.option(
    "--store-credentials",
    envvar="FOVEA_STORE_CREDENTIALS",
    help="Folder with the credentials of the store that holds the bundles; FOVEA_STORE_CREDENTIALS.",
)
@click.option(
    "--drain-delay",
    default=5.0,
    show_default=True,
    help="Seconds for which requests are still accepted after SIGTERM.",
)
def command(
    config: Path, host: str, port: int, admin_port: int, store_credentials: str | None, drain_delay: float
) -> None:
    """Answers the requests of a ModelDeployment: chooses a version, asks its runtime, limits, counts."""
    from fovea_serving.gateway.configuration import watch_file
    from fovea_serving.gateway.main import serve_config
    from fovea_serving.gateway.settings import Settings

    settings = Settings(host=host, port=port, admin_port=admin_port, drain_delay_seconds=drain_delay)
    serve_config(watch_file(config), settings, credentials=store_credentials)
