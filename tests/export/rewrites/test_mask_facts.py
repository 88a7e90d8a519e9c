"""What is proved of masks and of features, group by group; what is doubted, and why."""

import numpy as np
import onnx_ir as ir
import pytest

from pconv_deploy.export.rewrites.mask_facts import MaskFacts
from tests.graphs.small_graphs import IMAGE, KNOWN, NEAREST, graph, partial, repeated, weights

RNG = np.random.default_rng(11)


def learned(nodes: str, **more: np.ndarray) -> tuple[MaskFacts, dict[str, ir.Value]]:
    weight = weights(RNG, 4, 3, 3, 3)
    nodes = (
        KNOWN
        + repeated("mask3", "known", 3)
        + partial("h, seen4", "x, mask3, w, b", weight, mask_channels=3)
        + "seen = Slice (seen4, c0, c1, c1)\n"
        + f"large = Resize <{NEAREST}> (seen, , scales)\n"
        + nodes
    )
    model = graph(
        IMAGE,
        "float[N,C,P,Q] out",
        nodes,
        w=weight,
        b=weights(RNG, 4),
        c0=np.array([0]),
        c1=np.array([1]),
        scales=np.array([1, 1, 2, 2], np.float32),
        **more,
    )
    read = ir.serde.deserialize_model(model)
    return MaskFacts.of(read.graph), ir.convenience.create_value_mapping(read.graph)


def named(facts: MaskFacts, values: dict[str, ir.Value], name: str, *, covers: bool = False) -> str:
    """Groups as `3 known, 4 seen`."""
    table = facts.covers if covers else facts.masks
    keys = {facts.masks[values[mask]][0][1]: mask for mask in ("known", "seen", "large")}
    return ", ".join(f"{count} {keys[key]}" for count, key in table.get(values[name], ()))


MASKS = {
    "a layer's mask": ("out = Identity (seen4)", "4 seen"),
    "cast there and back": (
        "half = Cast <to = 10> (mask3) flag = Cast <to = 9> (half) out = Cast <to = 1> (flag)",
        "3 known",
    ),
    "joined": ("out = Concat <axis = 1> (mask3, seen4, seen, mask3)", "3 known, 5 seen, 3 known"),
    "joined and split": (
        "all = Concat <axis = 1> (mask3, seen4) a, out = Split <axis = -3> (all, two_five)",
        "1 known, 4 seen",
    ),
    "a slice of one mask": ("out = Slice (seen4, c0, c3, c1)", "3 seen"),
    "every other channel": ("out = Slice (seen4, c0, c3, c1, c2)", ""),
    "groups enlarged": (
        f"all = Concat <axis = 1> (seen, known) out = Resize <{NEAREST}> (all, , scales)",
        "1 large, 1 known, enlarged",
    ),
    "enlarged twice by ways that are equal": (
        f"all = Resize <{NEAREST}> (seen4, , scales) out = Identity (all)",
        "4 large",
    ),
    "expanded to what it is": ("same = Expand (mask3, shape1) out = Identity (same)", "3 known"),
    "tiled over channels": ("out = Tile (known, shape3)", "3 known"),
    "tiled over pixels": ("out = Tile (known, tile)", ""),
    "a product": ("out = Mul (known, seen)", ""),
    "a product with itself": ("out = Mul (known, mask3)", "3 known"),
    "a product with ones": (
        "size = Shape (mask3) one3 = ConstantOfShape <value = float[1] {1.0}> (size)"
        "all = Mul (one3, known) out = Identity (all)",
        "3 known",
    ),
    "a product with twos": (
        "size = Shape (mask3) two3 = ConstantOfShape <value = float[1] {2.0}> (size)"
        "out = Mul (two3, known)",
        "",
    ),
    "a sum": ("out = Add (known, seen)", ""),
}


@pytest.mark.parametrize(("nodes", "groups"), MASKS.values(), ids=MASKS)
def test_masks(nodes: str, groups: str) -> None:
    shapes = {"shape1": [1, 1, 1, 1], "shape3": [1, 3, 1, 1], "tile": [1, 1, 2, 1]}
    numbers = {"two_five": [2, 5], "c2": [2], "c3": [3], **shapes}
    facts, values = learned(nodes, **{name: np.array(v) for name, v in numbers.items()})
    if groups.endswith("enlarged"):
        (one, large), (other, key) = facts.masks[values["out"]]
        known = facts.masks[values["known"]][0][1]
        assert (one, large) == (1, facts.masks[values["large"]][0][1])
        assert (other, key[:2]) == (1, ("resized", known))
    else:
        assert named(facts, values, "out") == groups
    if not groups:
        assert "not proved to keep it 0 or 1 and equal over channels" in facts.why_unproved(
            values["out"]
        )


COVERS = {
    "a layer's features": ("out = Relu (h)", "4 seen"),
    "masked": ("out = Mul (x, known)", "3 known"),
    "masked, the mask first": ("out = Mul (mask3, x)", "3 known"),
    "scaled afterwards": ("m = Mul (x, known) out = Mul (m, x)", "3 known"),
    "joined": ("m = Mul (x, known) out = Concat <axis = 1> (h, m)", "4 seen, 3 known"),
    "enlarged": (f"out = Resize <{NEAREST}> (h, , scales)", "4 large"),
    "moved": ("out = Add (h, h)", ""),
    "not 0 at 0": ("out = Sigmoid (h)", ""),
    "joined with what has no holes": ("out = Concat <axis = 1> (h, x)", ""),
}


@pytest.mark.parametrize(("nodes", "groups"), COVERS.values(), ids=COVERS)
def test_what_is_zero_in_its_holes(nodes: str, groups: str) -> None:
    facts, values = learned(nodes)
    assert named(facts, values, "out", covers=True) == groups


def test_operators_of_others_prove_nothing() -> None:
    model = graph(IMAGE, "float[N,1,H,W] out", KNOWN + "same = Identity (known) out = Neg (same)")
    (node,) = (n for n in model.graph.node if n.op_type == "Identity")
    node.domain = "someone.else"
    read = ir.serde.deserialize_model(model)
    same = ir.convenience.create_value_mapping(read.graph)["same"]
    facts = MaskFacts.of(read.graph)
    assert same not in facts.masks
    assert facts.why_unproved(same).startswith("its mask passes Identity (Identity same)")


def test_sizes_that_are_not_known_may_be_repeated_pixels() -> None:
    model = graph(IMAGE, "float[N,3,H,W] out", KNOWN + repeated("out", "known", 3))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.Clear()
    read = ir.serde.deserialize_model(model)
    assert read.graph.outputs[0] not in MaskFacts.of(read.graph).masks
