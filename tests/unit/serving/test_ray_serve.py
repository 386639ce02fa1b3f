"""What answers of Ray Serve mean, and which applications are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from fovea_api.errors import FoveaError, InvalidManifest
from fovea_api.gateway import GatewayConfig, ServedVersion
from fovea_serving.bundle import load_bundle
from fovea_serving.pipeline.decode import InvalidImage
from fovea_serving.upstreams import InvalidOptions, Overloaded, UpstreamFailed, UpstreamUnavailable, open_upstream
from fovea_serving.upstreams.ray_serve import explain

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("status", "content_type", "text", "kind"),
    [
        (422, PROBLEM, '{"detail": "image 2: cut off"}', InvalidImage),
        (400, PROBLEM, '{"detail": "no class 7"}', InvalidOptions),
        (429, PROBLEM, '{"detail": "too many"}', Overloaded),
        (502, PROBLEM, '{"detail": "the network failed"}', UpstreamFailed),
        (503, PROBLEM, '{"detail": "being unloaded"}', UpstreamUnavailable),
        (503, "text/plain", "Request dropped due to backpressure (num_queued_requests=5)", Overloaded),
        (503, "text/plain", "Deployment is unavailable because it failed to deploy.", UpstreamUnavailable),
        (500, "text/plain", "Internal Server Error", UpstreamUnavailable),
        (404, "text/plain", "Path '/x' not found.", UpstreamUnavailable),
        (408, "text/plain", "Request timed out.", UpstreamUnavailable),
    ],
)
def test_what_a_status_means(status: int, content_type: str, text: str, kind: type[FoveaError]) -> None:
    error = explain(status, content_type, text.encode(), "http://ray/x")
    assert isinstance(error, kind)
    assert content_type != PROBLEM or json.loads(text)["detail"] in str(error)


async def test_a_proxy_that_is_not_there_is_unavailable(detector: Path) -> None:
    address = "http://127.0.0.1:9/one"  # the port `discard`, which nobody serves
    version = ServedVersion(name="one", role="Stable", runtime="RayServe", bundle="s3://any/where", address=address)
    config = GatewayConfig(namespace="n", deployment="d")
    upstream = open_upstream(version, load_bundle(detector).manifest, config)
    with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
        await upstream.ready()
    await upstream.close()


@pytest.mark.parametrize("args", [{}, {"bundle": "ftp://x/y"}, {"bundle": "s3://x/y", "precision": "FP64"}])
def test_wrong_args_are_refused_by_their_name(args: Mapping[str, object]) -> None:
    from fovea_serving.runtimes.ray_serve import app

    with pytest.raises(InvalidManifest, match=r"bundle|precision"):
        app(args)
