"""The backends: one file for each runtime, which registers itself for the files that it runs."""

from fovea_serving.backends.base import Backend, BackendOptions, Device, InvalidModel
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.backends.library import LITERT, OPENVINO, Library
from fovea_serving.backends.registry import open_backend, register

__all__ = [
    "LITERT",
    "OPENVINO",
    "Backend",
    "BackendOptions",
    "Device",
    "InvalidModel",
    "Library",
    "open_backend",
    "register",
    "usable_cpus",
]
