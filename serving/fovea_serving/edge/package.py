"""The edge package: a ZIP file with the model, what is done before and after it as data, and runners without Fovea."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from fovea_store.atomic import Replacing

from fovea_serving.bundle import Bundle, file_digest
from fovea_serving.pipeline import prediction_type
from fovea_serving.signature import SIGNATURE, sign_bundle

SUMS = "SHA256SUMS"
RUNNERS = {
    "runner.py": "predict.py",
    "predict.mjs": "predict.mjs",
    "index.html": "index.html",
    "package.json": "package.json",
}
"""What predicts in the package, by its name here: in Python, and as a page in JavaScript."""
REQUIREMENTS = "numpy>=2\nonnxruntime>=1.24\npillow>=11\n"
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of all files: the same bundle gives the same bytes."""

README = """# {architecture}: {task}

    pip install -r requirements.txt
    python predict.py IMAGE...

or in a browser, on http://localhost:8000, which asks no other place for anything:

    npm install
    python -m http.server --bind localhost

`model.json` says what is done to an image before `{model}` and to its outputs after; `predict.py` does it, and
`predict.mjs` for the page.
`labels.txt` has the classes in the order of their index. `sha256sum -c {sums}` verifies the files{signed}.
Made of the bundle {digest}.
"""
SIGNED = f""", and `model_signing verify key . --signature {SIGNATURE} --public_key KEY` who
made them (`pip install model-signing`)"""


def write_package(bundle: Bundle, target: Path, private_key: Path | None = None, password: str | None = None) -> Path:
    """Writes the package of a verified bundle, whole or not at all: its own choice of FP32 or INT8.

    Args:
        bundle: The bundle.
        target: The ZIP file.
        private_key: A PEM file of the key that signs it, as `sign_bundle` takes it; None: it is not signed.
        password: Of the key, where it is encrypted.

    Raises:
        InvalidInput: the key cannot sign.
    """
    manifest = bundle.manifest
    with TemporaryDirectory(prefix="fovea-edge-") as work:
        folder = Path(work)
        about = {
            "task": str(manifest.task),
            "file": bundle.model.name,
            "outputs": list(prediction_type(manifest.task).outputs),
            "preprocessing": manifest.preprocessing.to_dict(),
            "postprocessing": manifest.postprocessing.to_dict(),
            "bundle": bundle.digest,
        }
        readme = README.format(
            architecture=manifest.architecture,
            task=manifest.task,
            model=bundle.model.name,
            sums=SUMS,
            signed=SIGNED if private_key is not None else "",
            digest=bundle.digest,
        )
        texts = {
            "model.json": json.dumps(about, indent=2) + "\n",
            "labels.txt": "".join(f"{name}\n" for name in manifest.classes),
            "requirements.txt": REQUIREMENTS,
            "README.md": readme,
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for ours, name in RUNNERS.items():
            shutil.copy(Path(__file__).with_name(ours), folder / name)
        shutil.copy(bundle.model, folder)
        sums = [f"{file_digest(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
        if private_key is not None:
            signature = sign_bundle(folder, private_key, password)
            (folder / SIGNATURE).write_bytes(signature)
        with Replacing(target) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.writestr(ZipInfo(file.name, _TIME), file.read_bytes(), ZIP_DEFLATED)
    return target
