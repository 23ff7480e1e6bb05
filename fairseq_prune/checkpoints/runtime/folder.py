"""What the folders of all exports have: names of files, a configuration, and the graph of an encoder."""

import json
from pathlib import Path
from typing import Optional

from .engines import ONNX_RUNTIME, open_graph

CONFIG, ENCODER, DECODER = "config.json", "encoder.onnx", "decoder.onnx"


class Runner:
    """A folder of scripts/export.py in an engine.

    Args:
        folder: of the export.
        threads: of the engine; 0 leaves the choice to it.
        engine: of `engines.ENGINES`.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: it is an export of another kind; as `engines.open_graph`.
    """

    kind: Optional[str] = None  # what the configuration says, if it says one
    files: tuple[str, ...] = (ENCODER,)  # beside the configuration

    def __init__(self, folder, threads: int = 0, engine: str = ONNX_RUNTIME):
        self.folder = Path(folder)
        for name in (CONFIG, *self.files):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"{self.folder / name}: no such file, expected a folder of scripts/export.py"
                )
        self.config = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        if self.config.get("kind") != self.kind:
            raise ValueError(
                f"{self.folder / CONFIG}: kind is {self.config.get('kind')!r}, expected {self.kind!r}"
            )
        self.encoder = open_graph(self.folder / ENCODER, engine, threads)
