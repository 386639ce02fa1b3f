"""How large a network is and how much it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from fovea_trainer.models.network import AnyNetwork, Inference


@dataclass(frozen=True, slots=True)
class Complexity:
    """Trained numbers, and multiplications with addition for one image (of convolutions and matrix products)."""

    parameters: int
    macs: int

    @property
    def metrics(self) -> Mapping[str, float]:
        """By the names of the criteria, in millions and billions."""
        return {"complexity/megaParameters": self.parameters / 1e6, "complexity/gigaMacs": self.macs / 1e9}


def complexity(network: AnyNetwork, width: int, height: int) -> Complexity:
    """Of a network with its decoding, for an input of this size in pixels; torch counts two operations for a MAC.

    Two images are run, for group norm refuses a single value a channel, which the last level of a pyramid may have.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Inference(network.cpu().eval())(torch.zeros(2, 3, height, width))
    return Complexity(parameters, counter.get_total_flops() // 4)
