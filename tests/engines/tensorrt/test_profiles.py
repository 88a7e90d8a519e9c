from typing import Any

import pytest

from pconv_deploy.contract import GraphContract, Normalisation, Source, UNetConfig, deployment_specs
from pconv_deploy.engines.tensorrt.options import Profile, Shape
from pconv_deploy.engines.tensorrt.profiles import (
    choose,
    judged_within,
    profiles_for,
    tensor_shape,
)
from pconv_deploy.errors import EngineError, UsageError


def contract(
    multiple: int = 256, batch: int | None = None, size: tuple[int, int] | None = None
) -> GraphContract:
    inputs, outputs = deployment_specs(batch, size)
    return GraphContract(
        kind="deployment",
        inputs=inputs,
        outputs=outputs,
        normalisation=Normalisation(),
        size_multiple=multiple,
        batch=batch,
        size=size,
        source=Source(file="x", sha256="0" * 64, network=UNetConfig()),
    )


def described(**kind: Any) -> list[str]:
    return [profile.describe() for profile in profiles_for(contract(**kind))]


def test_a_ladder_of_batches_and_sizes() -> None:
    assert described() == [
        "1x256x256 .. 1x512x512, fastest at 1x512x512",
        "1x256x256 .. 1x1024x1024, fastest at 1x1024x1024",
        "1x256x256 .. 8x512x512, fastest at 8x512x512",
        "1x256x256 .. 8x1024x1024, fastest at 8x1024x1024",
        "1x256x256 .. 32x512x512, fastest at 32x512x512",
    ]


def test_sides_are_multiples_of_what_the_network_halves() -> None:
    assert described(multiple=48)[1] == "1x48x48 .. 1x1008x1008, fastest at 1x1008x1008"
    assert described(multiple=1024, batch=1) == ["1x1024x1024"]
    assert described(multiple=1)[0].startswith("1x1x1 .. 1x512x512")


def test_what_the_graph_fixes_is_fixed() -> None:
    assert described(batch=2, size=(256, 768)) == ["2x256x768"]
    assert described(size=(256, 768)) == [
        "1x256x768",
        "1x256x768 .. 8x256x768, fastest at 8x256x768",
        "1x256x768 .. 32x256x768, fastest at 32x256x768",
    ]
    assert described(batch=4) == [
        "4x256x256 .. 4x512x512, fastest at 4x512x512",
        "4x256x256 .. 4x1024x1024, fastest at 4x1024x1024",
    ]


def only(*shape: int) -> Profile:
    batch, height, width = shape
    return Profile(
        min=(batch, height, width), opt=(batch, height, width), max=(batch, height, width)
    )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ({}, (1, 256, 300)),
        ({"batch": 2}, (1, 256, 256)),
        ({"size": (256, 512)}, (1, 512, 256)),
        ({"batch": 1, "size": (256, 256)}, (1, 512, 512)),
    ],
)
def test_profiles_that_do_not_fit_the_graph(kind: dict[str, Any], shape: Shape) -> None:
    with pytest.raises(
        UsageError, match=r"found a profile with \d+x\d+x\d+; this graph takes batch"
    ):
        profiles_for(contract(**kind), [only(*shape)])


def test_wanted_profiles_replace_the_ladder() -> None:
    assert profiles_for(contract(), [only(3, 256, 512)]) == (only(3, 256, 512),)


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        ((1, 512, 512), 0),
        ((1, 256, 256), 0),
        ((1, 512, 768), 1),
        ((2, 512, 512), 2),
        ((2, 512, 768), 3),
        ((9, 512, 512), 4),
    ],
)
def test_the_smallest_profile_that_takes_it(shape: Shape, index: int) -> None:
    assert choose(profiles_for(contract()), shape) == index


def test_a_shape_outside_of_every_profile() -> None:
    with pytest.raises(EngineError) as caught:
        choose([only(1, 512, 512), only(2, 512, 512)], (3, 2048, 2048))
    assert str(caught.value) == (
        "found batch 3 of 2048x2048; this engine takes (batch x height x width):\n"
        "  1x512x512\n  2x512x512"
    )


def test_shapes_of_the_tensors() -> None:
    image, hole_mask = contract().inputs
    assert tensor_shape(image, (2, 256, 512)) == (2, 256, 512, 3)
    assert tensor_shape(hole_mask, (2, 256, 512)) == (2, 256, 512)
    (fixed, _) = contract(batch=1, size=(256, 256)).inputs
    assert tensor_shape(fixed, (1, 256, 256)) == (1, 256, 256, 3)


def test_engines_are_judged_in_shapes_that_they_take() -> None:
    free = contract()
    assert judged_within(profiles_for(free), free) is free
    fixed = contract(batch=2, size=(256, 512))
    assert judged_within(profiles_for(fixed), fixed) is fixed
    narrow = Profile(min=(1, 512, 256), opt=(1, 512, 512), max=(2, 512, 512))
    judged = judged_within([narrow, only(3, 256, 256)], free)
    assert (judged.batch, judged.size) == (1, (512, 256))
    assert judged.inputs[0].shape == (1, 512, 256, 3)
