"""Reading `model.bin` of CTranslate2, which its own library writes and runs but does not give back.

The layout (little-endian), version 6: uint32 version, string name, uint32 revision of the model's kind, uint32 number
of variables, and for each: string name, uint8 number of dimensions, uint32 each, uint8 type, uint32 bytes, the data;
then aliases: uint32 number, and for each the strings alias and name. A string is its uint16 length, with a zero that
ends it.
"""

import mmap
import struct
from pathlib import Path

import torch
from torch import Tensor

VERSION = 6
TYPES = [torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]


class _Reader:
    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, length: int) -> memoryview:
        if self.place + length > len(self.data):
            raise EOFError
        start, self.place = self.place, self.place + length
        return memoryview(self.data)[start : self.place]

    def number(self, form: str) -> int:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return bytes(self.take(self.number("H"))[:-1]).decode("utf-8")

    def variable(self) -> Tensor:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = TYPES[self.number("B")]
        data = bytearray(self.take(self.number("I")))  # a copy that torch may own
        return torch.frombuffer(data, dtype=dtype).reshape(shape)


def read_ctranslate2(path) -> tuple[str, dict[str, Tensor]]:
    """Name of the model's kind ("WhisperSpec"), and its variables, of the types that the file has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model of CTranslate2, of another version of the layout, or cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected a model of CTranslate2")
    with open(path, "rb") as file:
        if path.stat().st_size < 4:
            raise ValueError(f"{path}: not a model of CTranslate2: found {path.stat().st_size} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Reader(data), path)


def _read(reader: _Reader, path: Path) -> tuple[str, dict[str, Tensor]]:
    version = reader.number("I")
    if version != VERSION:
        raise ValueError(f"{path}: found version {version} of CTranslate2's layout, expected {VERSION}")
    try:
        kind = reader.string()
        reader.number("I")  # revision
        variables = {}
        for _ in range(reader.number("I")):
            name = reader.string()
            variables[name] = reader.variable()
        for _ in range(reader.number("I")):
            alias = reader.string()
            variables[alias] = variables[reader.string()]
    except (EOFError, IndexError, KeyError, RuntimeError, UnicodeDecodeError, ValueError):
        raise ValueError(
            f"{path}: a broken or cut off model of CTranslate2, at byte {reader.place:,}"
        ) from None
    return kind, variables
