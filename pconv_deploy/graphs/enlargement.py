"""Recognise and make `Resize` nodes that enlarge by nearest neighbours."""

import re
from typing import Any

import numpy as np
import onnx_ir as ir

from pconv_deploy.graphs.editing import constant, emit, known_values, text

Scales = tuple[float, ...]
_DEFAULTS = {
    "mode": "nearest",
    "coordinate_transformation_mode": "half_pixel",
    "nearest_mode": "round_prefer_floor",
}
_NEAREST: dict[str, Any] = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def nearest_scales(node: ir.Node) -> Scales | None:
    """Return the scales of a whole-number nearest enlargement; None for any other resize."""
    if len(node.inputs) < 3 or "axes" in node.attributes:
        return None  # the scales may be those of other axes
    if any(text(node, name, _DEFAULTS[name]) != needed for name, needed in _NEAREST.items()):
        return None
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None  # the sizes may not be those of the result
    scales = _by_shapes(node) if _has_sizes(node) else known_values(node.inputs[2])
    if scales is None or scales.size != 4 or (scales[:2] != 1).any() or (scales % 1).any():
        return None
    return tuple(float(scale) for scale in scales)


def how_resized(node: ir.Node) -> str:
    """Describe a resize for the reason of a refusal."""
    how = " ".join(text(node, name, default) for name, default in _DEFAULTS.items())
    return how + from_to(node)


def from_to(node: ir.Node) -> str:
    """Describe the shapes of a resize by sizes; empty for one by scales."""
    if not _has_sizes(node):
        return ""
    shapes = [_shape(value) for value in (node.inputs[0], node.outputs[0])]
    source, result = (", ".join(_named(size) for size in shape) for shape in shapes)
    return f" from [{source}] to [{result}]"


def enlarge(before: ir.Node, value: ir.Value, scales: Scales, name: str) -> ir.Value:
    """Enlarge by nearest neighbours; `scales` are whole, of all four axes."""
    factors = constant(before, np.array(scales, np.float32), name)
    return emit(before, "Resize", value, None, factors, **_NEAREST)


def _has_sizes(node: ir.Node) -> bool:
    return len(node.inputs) > 3 and node.inputs[3] is not None


def _by_shapes(node: ir.Node) -> np.ndarray | None:
    """Return the whole factors between input and output shape, if they prove them."""
    source, result = (_shape(value) for value in (node.inputs[0], node.outputs[0]))
    if len(source) != len(result):
        return None
    factors = [_factor(*sizes) for sizes in zip(source, result, strict=True)]
    return None if None in factors else np.array(factors, np.float64)


def _factor(source: object, result: object) -> int | None:
    """Divide sizes: (8, 16) -> 2, (4*rows, 8*rows) -> 2; None if not whole or not known."""
    (one, name), (other, other_name) = (_multiple(_dimension(size)) for size in (source, result))
    if name is None or name != other_name or one < 1 or other < one or other % one:
        return None
    return other // one


def _multiple(size: object) -> tuple[int, str | None]:
    """Parse a size: 8 -> (8, ""), 4*rows -> (4, rows), rows -> (1, rows), unknown -> (1, None)."""
    if isinstance(size, int):
        return size, ""
    found = re.fullmatch(r"(?:(\d+)\*)?([A-Za-z_]\w*)", str(size or ""))
    return (int(found[1] or 1), found[2]) if found else (1, None)


def _shape(value: ir.Value | None) -> list[object]:
    return list(value.shape) if value and value.shape else []


def _named(size: object) -> str:
    name = str(_dimension(size) or "?")
    return "?" if name.startswith("unk__") else name  # what shape inference calls an unknown


def _dimension(size: object) -> object:
    return size.value if isinstance(size, ir.SymbolicDim) else size
