"""Where the values of a network lie in its frame, and how far each of its nodes looks.

A value of half the frame's sides has level 1, and so on. In a window of the frame, convolutions
see zeros where the frame goes on, so their results are wrong at the window's edge: up to a margin,
which grows with every convolution and must not be read. What is proved here of a graph is
that every value has such a place and such a margin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from pconv_deploy.graphs.convolution import grouped_or_dilated
from pconv_deploy.graphs.editing import integer, ints, is_op, known_values, node_label, text

_ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "CastLike", "Clip", "DequantizeLinear", "Div", "Elu", "Equal"}
    | {"Erf", "Exp", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "PRelu"}
    | {"Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softplus"}
    | {"Sqrt", "Sub", "Tanh", "Where", "Xor"}
)
# The ways in which `interleave_phases` puts phases side by side.
_JOINS = frozenset(
    {
        ("DepthToSpace", "Slice"),
        ("Reshape", "Transpose", "Reshape", "Transpose", "Reshape", "Slice"),
        ("Transpose", "Reshape", "Transpose", "Reshape", "Slice"),
    }
)


@dataclass(frozen=True)
class Grid:
    """Where the elements of a value lie.

    level   how often the sides of the frame are halved
    rows    axis, counted from the end: -2 of (N, C, H, W)
    cols    axis, counted from the end
    phases  one more row and column: the four phases of a value of the next lower level
    moved   operators that have moved phases, but not yet put them side by side
    """

    level: int
    rows: int = -2
    cols: int = -1
    phases: bool = False
    moved: tuple[str, ...] = ()

    @property
    def window(self) -> int:
        """The level whose window such a value is computed in."""
        return self.level - self.phases


@dataclass(frozen=True)
class Place:
    """Where the result of a node lies, and what it reads.

    grid      of its result
    margin    of its result, from the largest margin of what it reads
    enlarges  it reads a value of one level more, inside that one's margin alone
    shrinks   it reads a value of one level less
    """

    grid: Grid
    margin: Callable[[int], int] = lambda margin: margin
    enlarges: bool = False
    shrinks: bool = False


class WindowError(ValueError):
    """A node whose arithmetic in a window is not known."""


Grids = dict[ir.Value, Grid]


def place_nodes(graph: ir.Graph, frame: Sequence[tuple[ir.Value, Grid]]) -> dict[ir.Node, Place]:
    """Find where the result of each node lies that computes something of the frame.

    Args:
        graph: without functions, its shapes inferred.
        frame: the graph's inputs.

    Raises:
        WindowError: of a node it is not known.
    """
    grids, sizes, places = dict(frame), Grids(), dict[ir.Node, Place]()
    for node in graph:
        try:
            if is_op(node, "CastLike") and node.inputs[0] not in grids:
                continue  # it takes the type alone
            if is_op(node, "Shape"):
                sizes |= _size_of(node, grids)
            elif any(value in grids for value in node.inputs if value is not None):
                places[node] = _place(node, grids, sizes)
                grids[node.outputs[0]] = places[node].grid
            else:
                sizes |= _computed_size(node, sizes)
        except WindowError as error:
            raise WindowError(f"{node_label(node)} ({node.op_type}): {error}") from None
    return places


def _size_of(node: ir.Node, grids: Grids) -> Grids:
    (value,) = node.inputs
    return {node.outputs[0]: grids[value]} if value in grids else {}


def _computed_size(node: ir.Node, sizes: Grids) -> Grids:
    found = {sizes[value] for value in node.inputs if value in sizes}
    if len(found) > 1:
        raise WindowError("a size of several values")
    return dict.fromkeys(node.outputs, found.pop()) if found else {}


def _place(node: ir.Node, grids: Grids, sizes: Grids) -> Place:
    first = grids.get(node.inputs[0]) if node.inputs[0] is not None else None
    if node.domain not in ("", "ai.onnx"):
        raise WindowError("an operator that is not of ONNX")
    if first is not None and (first.moved or (first.phases and _moves(node))):
        return _moved(node, first, sizes)
    if any(value in sizes for value in node.inputs):
        raise WindowError("its arithmetic depends on a size")
    if node.op_type in _ELEMENTWISE:
        return _elementwise(node, grids)
    if first is None or len({value for value in node.inputs if value in grids}) > 1:
        if is_op(node, "Concat"):
            return _elementwise(node, grids)
        raise WindowError("it mixes values of the frame")
    rule = _RULES.get(node.op_type)
    if rule is None:
        raise WindowError("its arithmetic in a window is not known")
    return rule(node, first)


def _moves(node: ir.Node) -> bool:
    return is_op(node, "DepthToSpace", "Reshape", "Transpose", "Slice")


def _elementwise(node: ir.Node, grids: Grids) -> Place:
    """Values of the frame of one grid, and others that are the same for each pixel."""
    found = {grids[value] for value in node.inputs if value in grids}
    if len(found) > 1:
        raise WindowError("it mixes values of different places")
    (grid,) = found
    if is_op(node, "Concat") and _axis_from_end(node, "axis") in (grid.rows, grid.cols):
        raise WindowError("it joins rows or columns")
    for value in node.inputs:
        if value is None or value in grids:
            continue
        if value.shape is None:
            raise WindowError(f"the shape of {value.name} is not known")
        sides = [value.shape[axis] for axis in (grid.rows, grid.cols) if -axis <= len(value.shape)]
        per_channel = is_op(node, "QuantizeLinear", "DequantizeLinear")
        if any(side != 1 for side in sides) and not (per_channel and len(value.shape) <= 1):
            raise WindowError(f"{value.name} differs from pixel to pixel")
    return Place(grid)


def _axis_from_end(node: ir.Node, name: str) -> int:
    axis, shape = integer(node, name, 0), node.inputs[0].shape if node.inputs[0] else None
    if axis < 0:
        return axis
    if shape is None:
        raise WindowError("the shape of what it reads is not known")
    return axis - len(shape)


@dataclass(frozen=True)
class WindowOfAxis:
    """What a convolution or pooling reads along an axis; padding before and after."""

    taps: int
    stride: int
    before: int
    after: int


def _windows(node: ir.Node, kernel: tuple[int, ...]) -> list[WindowOfAxis]:
    """Return the windows along rows and columns."""
    strides, pads = ints(node, "strides", (1, 1)), ints(node, "pads", (0, 0, 0, 0))
    shaped = text(node, "auto_pad", "NOTSET") != "NOTSET" or integer(node, "ceil_mode", 0)
    if shaped or set(ints(node, "dilations", (1, 1))) != {1} or len(kernel) != 2:
        raise WindowError("its padding is not given, or it is dilated")
    return [WindowOfAxis(kernel[n], strides[n], pads[n], pads[n + 2]) for n in (0, 1)]


def _convolution(node: ir.Node, grid: Grid) -> Place:
    """A convolution or a pooling, by its window."""
    windows = _windows(node, ints(node, "kernel_shape") or _shape_of_weight(node))
    if (grid.rows, grid.cols) != (-2, -1) or grid.phases:
        raise WindowError("what it reads has no rows and columns to convolve")
    strides = {window.stride for window in windows}
    wider = {window.before + window.after + 1 - window.taps for window in windows}
    pad = max(max(window.before, window.after) for window in windows)
    even = all(window.before == window.after for window in windows)
    if strides == {1} and wider == {0}:
        return Place(grid, lambda margin: margin + pad)
    if strides == {1} and wider == {1} and even:
        return Place(replace(grid, phases=True), lambda margin: margin + pad, enlarges=True)
    if strides == {2} and wider == {1} and even:
        wide = replace(grid, level=grid.level + 1, phases=True)
        return Place(wide, lambda margin: -(-(margin + pad) // 2))
    if strides == {2} and wider <= {0, -1}:
        return Place(replace(grid, level=grid.level + 1), shrinks=True)
    raise WindowError(f"{windows[0]} along rows, {windows[1]} along columns")


def _transposed_convolution(node: ir.Node, grid: Grid) -> Place:
    rows, cols = _windows(node, _shape_of_weight(node))
    taps, pad, extra = rows.taps, rows.before, set(ints(node, "output_padding", (0, 0)))
    doubles = rows.stride == 2 and rows.before == rows.after and extra == {2 + 2 * pad - taps}
    if rows != cols or not doubles or "output_shape" in node.attributes:
        raise WindowError(f"{rows} along rows, {cols} along columns")
    if grouped_or_dilated(node) or (grid.rows, grid.cols) != (-2, -1) or grid.phases:
        raise WindowError("groups, dilation, or no rows and columns to convolve")
    margin = max(pad, taps - pad - 2)
    return Place(replace(grid, level=grid.level - 1), lambda _: margin, enlarges=True)


def _shape_of_weight(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static():
        raise WindowError("its window is not known")
    return tuple(int(side) for side in weight.shape.numpy()[2:])


def _resize(node: ir.Node, grid: Grid) -> Place:
    scales = known_values(node.inputs[2]) if len(node.inputs) > 2 else None
    doubled = scales is not None and scales.tolist() == [1, 1, 2, 2]
    how = (text(node, "mode", "nearest"), text(node, "nearest_mode", "round_prefer_floor"))
    where = text(node, "coordinate_transformation_mode", "half_pixel")
    repeats = how[0] == "nearest" and (where, how[1]) == ("asymmetric", "floor")
    if not doubled or not repeats or (grid.rows, grid.cols) != (-2, -1) or grid.phases:
        raise WindowError("it does more than repeat rows and columns")
    return Place(replace(grid, level=grid.level - 1), lambda _: 0, enlarges=True)


def _space_to_depth(node: ir.Node, grid: Grid) -> Place:
    if integer(node, "blocksize", 0) != 2 or (grid.rows, grid.cols) != (-2, -1) or grid.phases:
        raise WindowError("other blocks than of two rows and columns")
    return Place(replace(grid, level=grid.level + 1), shrinks=True)


def _transpose(node: ir.Node, grid: Grid) -> Place:
    order = ints(node, "perm")
    if not order:
        raise WindowError("its axes are not given")
    rank = len(order)
    rows, cols = (order.index(rank + axis) - rank for axis in (grid.rows, grid.cols))
    return Place(replace(grid, rows=rows, cols=cols))


def _unsqueeze(node: ir.Node, grid: Grid) -> Place:
    axes, shape = known_values(node.inputs[1]), node.outputs[0].shape
    if axes is None or shape is None:
        raise WindowError("its axes are not known")
    rank = len(shape)
    old = [axis for axis in range(rank) if axis not in {int(a) % rank for a in axes}]
    rows, cols = (old[len(old) + axis] - rank for axis in (grid.rows, grid.cols))
    return Place(replace(grid, rows=rows, cols=cols))


def _moved(node: ir.Node, grid: Grid, sizes: Grids) -> Place:
    """One of the operators that put phases side by side; the last one cuts the edge off."""
    moved = (*grid.moved, node.op_type)
    if not any(join[: len(moved)] == moved for join in _JOINS):
        raise WindowError("it moves the phases of a value in another way")
    source = replace(grid, moved=())
    if any(sizes[value] != source for value in node.inputs if value in sizes):
        raise WindowError("it takes a size from elsewhere")
    if is_op(node, "DepthToSpace") and integer(node, "blocksize", 0) != 2:
        raise WindowError("it joins other phases than four")
    if moved not in _JOINS:
        return Place(replace(grid, moved=moved))
    starts, ends, axes = (known_values(value) for value in node.inputs[1:4])
    if starts is None or ends is None or axes is None or len(node.inputs) > 4:
        raise WindowError("what it cuts is not known")
    rows, cols = (int(axis) % 4 - 4 for axis in axes)
    if (starts.tolist(), ends.tolist()) != ([1, 1], [-1, -1]):
        raise WindowError("it cuts more than the edge")
    return Place(Grid(grid.level - 1, rows, cols), lambda margin: 2 * margin - 1)


_RULES: dict[str, Callable[[ir.Node, Grid], Place]] = {
    "AveragePool": _convolution,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MaxPool": _convolution,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
