"""One file of weights for both entries of an engine, and one copy of it in memory."""

import ctypes
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from pconv_deploy.engines.backends.openvino.library import import_openvino

MODEL, WEIGHTS = "model.xml", "model.bin"
# OpenVINO writes where a constant lies only in the elements of constants.
_PLACE = re.compile(r'offset="(\d+)" size="(\d+)"')


def share_weights(first: Path, second: Path) -> tuple[str, ...]:
    """Let `second` have the weights of `first`, followed by those that only it needs.

    Args:
        first: folder with the files of an engine's first entry; they stay as they are.
        second: of its second entry, just built; its places of constants are written anew.

    Returns:
        The files of `second` that serve both entries.
    """
    weights = bytearray((first / WEIGHTS).read_bytes())
    own = memoryview((second / WEIGHTS).read_bytes())
    places: dict[bytes, int] = {}
    for found in _PLACE.finditer((first / MODEL).read_text(encoding="utf-8")):
        start, size = map(int, found.groups())
        places[_key(memoryview(weights)[start : start + size])] = start

    def moved(found: re.Match[str]) -> str:
        start, size = map(int, found.groups())
        content = own[start : start + size]
        place = places.setdefault(_key(content), len(weights))
        if place == len(weights):
            weights.extend(content)
        return f'offset="{place}" size="{size}"'

    model = (second / MODEL).read_text(encoding="utf-8")
    (second / MODEL).write_text(_PLACE.sub(moved, model), encoding="utf-8")
    (second / WEIGHTS).write_bytes(weights)
    return (WEIGHTS,)


def weights_tensor(content: bytes) -> Any:
    """View weights as an `openvino.Tensor`; the caller keeps `content` as long as it is in use."""
    # A Tensor wants memory that it could write to. Weights are only read.
    start = np.frombuffer(content, np.uint8).ctypes.data
    array = np.ctypeslib.as_array((ctypes.c_uint8 * len(content)).from_address(start))
    return import_openvino().Tensor(array, shared_memory=True)


def _key(content: memoryview) -> bytes:
    return hashlib.sha256(content).digest()
