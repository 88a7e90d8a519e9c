"""The second entry of an engine: the encoder of the whole frame, the decoder of windows.

Beside the image and the hole mask it takes `windows`, rows of (frame, y, x): for each window and
each slice that is made of a value, its start and its end. So one graph serves windows of every
place and size; those of one call are of equal size and make one batch. A window that is not used
is a slice of no frames.
"""

from dataclasses import dataclass

import onnx
import onnx_ir as ir

from pconv_deploy.contract import HOLE_MASK, IMAGE
from pconv_deploy.engines.windows.grids import Grid, Place, WindowError, place_nodes
from pconv_deploy.engines.windows.plan import WHOLE_LEVELS, WINDOWS, WindowRule, write_rule
from pconv_deploy.graphs.editing import attributes_of, constant, emit, is_op
from pconv_deploy.graphs.file import inlined

_FRAME = Grid(0, rows=-3, cols=-2), Grid(0, rows=-2, cols=-1)  # of (N, H, W, 3) and (N, H, W)


def windowed(model: onnx.ModelProto, most: int) -> tuple[onnx.ModelProto, WindowRule]:
    """Make the second entry of a deployment graph, in whatever form and precision it is.

    Args:
        model: the graph; it stays as it is.
        most: how many windows a call takes.

    Raises:
        WindowError: its arithmetic in a window is not known; the message names the node.
    """
    content = onnx.load_from_string(inlined(model.SerializeToString()))
    del content.graph.value_info[:]
    content = onnx.shape_inference.infer_shapes(content, data_prop=True)
    loaded = ir.serde.deserialize_model(content)
    graph = loaded.graph
    inputs = {value.name: value for value in graph.inputs}
    frame = list(zip((inputs[IMAGE], inputs[HOLE_MASK]), _FRAME, strict=True))
    places = place_nodes(graph, frame)
    deepest = max((place.grid.level for place in places.values()), default=0)
    inside = _inside(graph, places, deepest - WHOLE_LEVELS)
    rule = WindowRule(margins=_margins(graph, places, inside), most=most)
    cutter = _Cutter(graph, dict(frame), places, inside, rule)
    for node in [node for node in graph if node in inside]:
        cutter.narrow(node)
    second = ir.serde.serialize_model(loaded)
    del second.graph.value_info[:]
    _name_results(second)
    write_rule(second, rule)
    return second, rule


def _inside(graph: ir.Graph, places: dict[ir.Node, Place], last: int) -> set[ir.Node]:
    """Return the nodes that a window is enough for: those behind an enlargement, and for them."""
    inside: set[ir.Node] = set()
    for node in graph:
        place = places.get(node)
        if place is not None and place.grid.window <= last:
            after = any(value.producer() in inside for value in node.inputs if value is not None)
            if place.enlarges or after:
                inside.add(node)
    sizes = {node for node in graph if node not in places}
    for node in reversed(graph):
        place = places.get(node)
        if place is None or node in inside or place.shrinks or place.grid.window > last:
            continue
        readers = {reader for value in node.outputs for reader, _ in value.uses()}
        if readers and readers - sizes <= inside and not node.outputs[0].is_graph_output():
            inside.add(node)
    late = [node for node in inside if places[node].shrinks]
    if late:
        raise WindowError(f"{late[0].name} ({late[0].op_type}): an encoder behind a decoder")
    if not {value.producer() for value in graph.outputs} <= inside:
        raise WindowError("the result is not that of a decoder of at least three levels")
    return inside


def _margins(
    graph: ir.Graph, places: dict[ir.Node, Place], inside: set[ir.Node]
) -> tuple[int, ...]:
    """Return the widest margin of each level's window, from the frame's on."""
    margins: dict[ir.Node, int] = {}
    widest: dict[int, int] = {}
    for node in graph:
        if node not in inside:
            continue
        read = [value.producer() for value in node.inputs if value is not None]
        place = places[node]
        before = 0 if place.enlarges else max((margins.get(n, 0) for n in read if n), default=0)
        margins[node] = place.margin(before)
        if not place.grid.phases:
            level = place.grid.level
            widest[level] = max(widest.get(level, 0), margins[node])
    return tuple(widest[level] for level in range(max(widest) + 1))


@dataclass
class _Cutter:
    """Puts slices where a node of a decoder reads what is larger than its window."""

    graph: ir.Graph
    frame: dict[ir.Value, Grid]
    places: dict[ir.Node, Place]
    inside: set[ir.Node]
    rule: WindowRule

    def __post_init__(self) -> None:
        self.slices: dict[tuple[ir.Value, int], ir.Value] = {}
        self.corners: dict[int, ir.Value] = {}
        self.windows = ir.Value(
            name=WINDOWS,
            shape=ir.Shape((self.rule.rows, 3)),
            type=ir.TensorType(ir.DataType.INT64),
        )
        self.graph.inputs.append(self.windows)
        self.first = self.graph[0]

    def narrow(self, node: ir.Node) -> None:
        """Let a node read no more than it needs."""
        place = self.places[node]
        for index, value in enumerate(node.inputs):
            grid = self._grid(value)
            if value is None or grid is None:
                continue
            if place.enlarges:
                number = self.rule.read_by_next(place.grid.window)
            elif value.producer() in self.inside:
                continue
            else:
                number = self.rule.own(place.grid.window)
            node.replace_input_with(index, self._slice(node, value, grid, number))

    def _grid(self, value: ir.Value | None) -> Grid | None:
        if value is None:
            return None
        producer = value.producer()
        place = self.places.get(producer) if producer else None
        return place.grid if place else self.frame.get(value)

    def _slice(self, node: ir.Node, value: ir.Value, grid: Grid, number: int) -> ir.Value:
        if (value, number) not in self.slices:
            self.slices[value, number] = self._sliced(node, value, grid, number)
        return self.slices[value, number]

    def _sliced(self, node: ir.Node, value: ir.Value, grid: Grid, number: int) -> ir.Value:
        source = value.producer()
        if source is not None and is_op(source, "DequantizeLinear"):
            # Eight bits are sliced, and the convolution reads what it computes in eight bits.
            assert source.inputs[0] is not None
            codes = self._slice(node, source.inputs[0], grid, number)
            given = attributes_of(source)
            return emit(node, "DequantizeLinear", codes, *source.inputs[1:], **given)
        assert value.shape is not None
        rank = len(value.shape)
        axes = constant(node, [0, rank + grid.rows, rank + grid.cols], f"windows.axes.{rank}")
        parts = [
            emit(node, "Slice", value, self._corner(row), self._corner(row + 1), axes)
            for row in self.rule.rows_of(number)
        ]
        return parts[0] if len(parts) == 1 else emit(node, "Concat", *parts, axis=0)

    def _corner(self, row: int) -> ir.Value:
        if row not in self.corners:
            index = constant(self.first, row, f"windows.{row}")
            self.corners[row] = emit(self.first, "Gather", self.windows, index, axis=0)
        return self.corners[row]


def _name_results(model: onnx.ModelProto) -> None:
    """Give results other names for their free dimensions than the frame has."""
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_param = f"window_{dim.dim_param}"
