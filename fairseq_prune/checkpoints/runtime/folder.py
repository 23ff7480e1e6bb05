"""What the folders of all exports have: names of files, and a configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIG, ENCODER, DECODER = "config.json", "encoder.onnx", "decoder.onnx"


def read_config(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """The configuration of an export.

    Args:
        files: that must be there too.

    Raises:
        FileNotFoundError: one is not.
    """
    for name in (CONFIG, *files):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, expected a folder of scripts/export.py")
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
