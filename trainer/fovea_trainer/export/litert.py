"""From an exported program to TFLite: `python litert.py PROGRAM FILE`.

It is run by itself, because litert-torch asks for older libraries than Fovea does: by the Python of an environment that
has it, in which Fovea need not be.
"""

from __future__ import annotations

import sys


def convert(program: str, file: str) -> None:
    """Writes the program's only signature, with the shapes that it was traced with."""
    import litert_torch
    import torch

    loaded = torch.export.load(program)
    module = loaded.run_decompositions({}).module()  # without writes in place, which cannot be exported once more
    litert_torch.convert(module, loaded.example_inputs[0]).export(file)


if __name__ == "__main__":
    convert(*sys.argv[1:])
