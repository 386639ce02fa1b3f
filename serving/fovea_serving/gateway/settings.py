"""Limits and addresses of a gateway, each with its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway listens, and what it bears.

    Args:
        host: Address that it listens on.
        port: For requests.
        admin_port: For probes and metrics, which nobody outside of the cluster needs; 0: none.
        grpc_port: For the Open Inference Protocol over gRPC; 0: none.
        processes: Processes that share the ports.
        max_request_bytes: Largest body. A photo of 50 megapixels has some 25 MB.
        max_images: Images of one request at most.
        max_batch_images: Images of one `predict:batch` at most.
        max_at_work: Images at work at most, which bounds the memory for their bytes.
        max_wait_seconds: A request that would wait longer is refused with 429, because whoever asks can then ask
            elsewhere or later, while waiting would make all others slow too.
        drain_delay_seconds: After SIGTERM requests are still accepted for so long, because a Service goes on sending
            them until all nodes know that the pod ends.
        drain_seconds: Time that running requests have then.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 0
    grpc_port: int = 0
    processes: int = 1
    max_request_bytes: int = 64 * 2**20
    max_images: int = 32
    max_batch_images: int = 1000
    max_at_work: int = 256
    max_wait_seconds: float = 1.0
    drain_delay_seconds: float = 0
    drain_seconds: float = 30
