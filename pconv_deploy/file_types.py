"""What a file is by its first bytes; its name may say anything."""

import os
from pathlib import Path
from typing import Final, Literal

ZIP: Final = b"PK\x03\x04"
LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HDF5: Final = b"\x89HDF\r\n\x1a\n"
_SHOWN = 16  # bytes that tell all kinds apart
# ONNX starts with the number of its format; then comes one of the model's other fields.
_ONNX_VERSION, _ONNX_FIELDS = 0x08, b"\x12\x1a\x22\x28\x32\x3a\x42"

Kind = Literal["safetensors", "torch", "hdf5", "onnx", "pickle", "empty", "unknown"]
CHECKPOINTS: Final = ("safetensors", "torch", "hdf5")


def is_graph(path: Path) -> bool:
    """Whether to read a file as an ONNX graph: by its name, or for what it holds."""
    if path.suffix.lower() == ".onnx":
        return True
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            return kind_of(stream.read(_SHOWN) or b"") == "onnx"
    except OSError:  # whoever reads it as something else says why
        return False


def kind_of(start: bytes) -> Kind:
    """Say what starts with these bytes, 16 of them if there are so many.

    "torch" is what torch.save writes, today's and that before 2020; "pickle" is any other.
    """
    if not start:
        return "empty"
    if start.startswith((ZIP, LEGACY)):
        return "torch"
    if start.startswith(HDF5):
        return "hdf5"
    # The length of its header comes first, whose bytes may be anything, and a brace.
    if start[8:9] == b"{":
        return "safetensors"
    if start[0] == _ONNX_VERSION and len(start) > 2 and start[2] in _ONNX_FIELDS:
        return "onnx"
    return "pickle" if start[:1] == b"\x80" else "unknown"
