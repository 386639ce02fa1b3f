"""How large the file of each architecture is and how long one core computes it: exported before training, with default
options and input and in floating point, and run by the serving code's backend.

python benchmarks/architectures.py                        all that the file of the figures does not have yet
python benchmarks/architectures.py yolo unet --json F     some of them, anew

The figures are those of `fovea models`, kept beside its list. Both hardly depend on what the weights have learned.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import fovea_api
from conformance import cpu_milliseconds, processor
from fovea_api.architectures import catalogue
from fovea_api.figures import CLASSES, MEASURED, Measured
from fovea_api.trainingjob import ModelChoice
from fovea_serving.bundle import MODEL
from fovea_trainer.evaluation.latency import size_megabytes
from fovea_trainer.export import Exportable, exporter
from fovea_trainer.models.losses import LossSettings
from fovea_trainer.models.registry import build_network

KEPT = Path(fovea_api.__file__).parent / MEASURED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures (all that the file does not have)")
    parser.add_argument("--json", type=Path, default=KEPT, help="the figures (%(default)s)")
    given = parser.parse_args()
    found = json.loads(given.json.read_text("utf-8")) if given.json.exists() else {}
    for name in given.names or [name for name in catalogue() if name not in found]:
        found[name] = measured(name).to_dict()
        print(name, found[name], flush=True)
        lines = [f"{json.dumps(each)}: {json.dumps(found[each])}" for each in sorted(found)]
        given.json.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def measured(name: str) -> Measured:
    """The figures of an architecture."""
    choice = ModelChoice.model_validate({"architecture": name, "pretrained": {"weights": "None"}})
    network, architecture = build_network(choice, CLASSES, LossSettings()), catalogue()[name]
    with tempfile.TemporaryDirectory(prefix="fovea-architectures-") as folder:
        model = Path(folder) / MODEL
        size = (architecture.width, architecture.height)
        exporter("ONNX").write(Exportable.of(network, size, dynamic_batch=True), model)
        return Measured(
            megabytes=round(size_megabytes(model)["size/megabytes"], 2),
            milliseconds=cpu_milliseconds(model, architecture),
            machine=processor(),
        )


if __name__ == "__main__":
    main()
