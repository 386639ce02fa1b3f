"""Norms that take whatever a training may bring."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that goes by its running statistics where a channel has a single value, which torch refuses: one image
    on a map of one cell, as the coarsest level of a small input is."""

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        if self.training and features.shape[0] * features.shape[2] * features.shape[3] == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(features)
