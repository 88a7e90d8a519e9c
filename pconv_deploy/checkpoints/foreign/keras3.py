"""Weights of Keras 3 (.weights.h5, .keras), named as Keras 2 names them.

Keras 3 numbers a layer's variables, and calls layers by their class, in the order of the model:
`layers/batch_normalization_2/vars/0`. Names of layers are lost, their order is not.
"""

import re
from collections.abc import Mapping

from torch import Tensor

KERAS3_VARIABLES = "/vars/"
_VARIABLE = re.compile(r"layers/(?P<kind>\w+?)(?:_(?P<number>\d+))?/vars/(?P<variable>\d+)")
_NORM = "batch_normalization"
_PARTS = {
    _NORM: ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "p_conv2d": ("img_kernel", "bias", "kernel_mask"),
}


def named_as_keras2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what is known; other names stay, for whoever reads them to refuse.

    The first half of the batch norms is the encoder's, which PConv-Keras calls EncBN1, EncBN2, ...
    """
    found = {name: match for name in tensors if (match := _VARIABLE.fullmatch(name))}
    norms = {int(m["number"] or 0) for m in found.values() if m["kind"] == _NORM}
    encoder = sorted(norms)[: len(norms) // 2]
    renamed = {}
    for name, tensor in tensors.items():
        match = found.get(name)
        kind, number = (match["kind"], int(match["number"] or 0)) if match else ("", 0)
        parts = _PARTS.get(kind, ())
        if match and int(match["variable"]) < len(parts):
            encodes = kind == _NORM and number in encoder
            layer = f"EncBN{number + 1}" if encodes else f"{kind}_{number}"
            name = f"{layer}/{parts[int(match['variable'])]}"
        renamed[name] = tensor
    return renamed
