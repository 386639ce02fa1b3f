"""`fovea serve`: a model bundle as a service, in one process."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("serve")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535), help="Port of requests.")
@click.option(
    "--admin-port",
    type=click.IntRange(1, 65535),
    help="Port of metrics, and of probes.  [default: no metrics; probes at the port of requests]",
)
@click.option(
    "--grpc-port", type=click.IntRange(1, 65535), help="Port of the Open Inference Protocol by gRPC.  [default: none]"
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1),
    help="Score from which an object is reported.  [default: the bundle's, where F1 is best on its validation split]",
)
@click.option("--max-batch", default=8, show_default=True, type=click.IntRange(1, 1024), help="Images in a batch.")
@click.option(
    "--max-delay",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 10_000),
    help="Milliseconds that the first image of a batch waits for others.",
)
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 600, min_open=True),
    help="Seconds after which a request is given up.",
)
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(min=0),
    help="Threads of the network in each process.  [default: the CPUs that they may use]",
)
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that share the ports."
)
def command(
    bundle: Path,
    host: str,
    port: int,
    admin_port: int | None,
    grpc_port: int | None,
    confidence: float | None,
    max_batch: int,
    max_delay: float,
    timeout: float,
    threads: int,
    processes: int,
) -> None:
    """Serves a BUNDLE over HTTP: POST an image to /v1/predict."""
    from fovea_api.modeldeployment import Batching, Inference
    from fovea_serving.gateway.main import serve_bundle
    from fovea_serving.gateway.settings import Settings

    if admin_port == port:
        raise click.UsageError("--admin-port is another port than that of requests")
    inference = Inference(
        batching=Batching(max_size=max_batch, max_delay_milliseconds=max_delay),
        confidence_threshold=confidence,
        timeout_seconds=timeout,
    )
    settings = Settings(host=host, port=port, admin_port=admin_port or 0, grpc_port=grpc_port or 0, processes=processes)
    click.echo(f"http://{host}:{port}", err=True)
    serve_bundle(bundle, inference, settings, threads=threads)
