"""Renews label_studio.json: masks as Label Studio's own code packs them. It needs an environment of its own:

python -m venv /tmp/label-studio && /tmp/label-studio/bin/pip install label-studio-sdk==2.1.2
/tmp/label-studio/bin/python tests/unit/data/oracles/renew_label_studio.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from label_studio_sdk.converter.brush import decode_rle, encode_rle
from oracle_sets import MASKS, rgba

HERE = Path(__file__).parent

if __name__ == "__main__":
    packed = {name: encode_rle(rgba(name).ravel().astype(int)) for name in MASKS}
    for name, rle in packed.items():
        assert (decode_rle(rle) == rgba(name).ravel()).all()
    content = {"version": version("label-studio-sdk"), **packed}
    (HERE / "label_studio.json").write_text(json.dumps(content) + "\n")
