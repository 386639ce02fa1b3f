"""A model for where Fovea is not: with all that it takes to use it, and no more."""

from fovea_serving.edge.package import write_package

__all__ = ["write_package"]
