"""What answers the gateway's requests: the same process, Ray Serve or Triton; one file each."""

from fovea_serving.upstreams.base import (
    Answer,
    InvalidOptions,
    Overloaded,
    PredictOptions,
    Upstream,
    UpstreamFailed,
    UpstreamUnavailable,
)
from fovea_serving.upstreams.registry import open_upstream, register

__all__ = [
    "Answer",
    "InvalidOptions",
    "Overloaded",
    "PredictOptions",
    "Upstream",
    "UpstreamFailed",
    "UpstreamUnavailable",
    "open_upstream",
    "register",
]
