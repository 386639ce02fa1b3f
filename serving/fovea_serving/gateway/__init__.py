"""The HTTP application in front of a model: `fovea serve` in one process, `fovea gateway` on the cluster."""
