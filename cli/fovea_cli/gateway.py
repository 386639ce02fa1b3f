"""`fovea gateway`: the process that a ModelDeployment's requests come to."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("gateway")
@click.option("--namespace", envvar="FOVEA_NAMESPACE", help="Namespace of the ConfigMap; FOVEA_NAMESPACE.")
@click.option(
    "--config-map",
    envvar="FOVEA_GATEWAY_CONFIG_MAP",
    help="ConfigMap with the configuration under gateway.json, which is followed; FOVEA_GATEWAY_CONFIG_MAP.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the configuration, instead of a ConfigMap.",
)
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port of requests.")
@click.option(
    "--admin-port", default=9090, show_default=True, type=click.IntRange(1, 65535), help="Port of probes and metrics."
)
@click.option(
    "--grpc-port",
    default=8001,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of the Open Inference Protocol by gRPC; 0: none.",
)
@click.option(
    "--store-credentials",
    envvar="FOVEA_STORE_CREDENTIALS",
    help="Folder with the credentials of the store that holds the bundles; FOVEA_STORE_CREDENTIALS.",
)
@click.option(
    "--api-keys",
    envvar="FOVEA_API_KEYS",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder whose files are the API keys, a mounted Secret; FOVEA_API_KEYS.",
)
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that share the ports."
)
@click.option(
    "--drain-delay",
    default=5.0,
    show_default=True,
    help="Seconds for which requests are still accepted after SIGTERM.",
)
def command(
    namespace: str | None,
    config_map: str | None,
    config: Path | None,
    host: str,
    port: int,
    admin_port: int,
    grpc_port: int,
    store_credentials: str | None,
    api_keys: Path | None,
    processes: int,
    drain_delay: float,
) -> None:
    """Answers the requests of a ModelDeployment: chooses a version, asks its runtime, limits, counts."""
    from fovea_serving.gateway.configuration import Surroundings
    from fovea_serving.gateway.main import serve_config_map, serve_file
    from fovea_serving.gateway.settings import Settings

    surroundings = Surroundings(store_credentials, api_keys)
    settings = Settings(host, port, admin_port, grpc_port, processes, drain_delay_seconds=drain_delay)
    if config is not None:
        serve_file(config, settings, surroundings)
    elif namespace and config_map:
        serve_config_map(namespace, config_map, settings, surroundings)
    else:
        raise click.UsageError("give --namespace and --config-map, or --config")
