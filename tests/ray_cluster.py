"""Several of Ray's nodes on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster


@contextmanager
def connected(*, logs: bool = False, **head: Any) -> Iterator[Cluster]:
    """A cluster of a head with these parameters, that this process is connected to; `logs`: prints those of workers.

    Its address is written nowhere, else the `ray.init()` of whatever runs beside this test would connect to it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
        patch.setattr("ray._common.utils.reset_ray_address", lambda *_: None)
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            ray.init(address=made.address, log_to_driver=logs)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()
