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
    from torch._decomp import get_decompositions

    nearest = torch.ops.aten.upsample_nearest2d
    # by its indices, for litert-torch takes other pixels where the sizes are no multiples, as 15 of 8
    decompositions = get_decompositions([nearest.vec, nearest.default])
    loaded = torch.export.load(program)
    # without writes in place, which cannot be exported once more
    module = loaded.run_decompositions(decompositions).module()
    litert_torch.convert(module, loaded.example_inputs[0]).export(file)


if __name__ == "__main__":
    convert(*sys.argv[1:])
