from collections.abc import Sequence
from typing import Any

import pytest

from pconv_deploy.contract import GraphContract, Normalisation, Source, UNetConfig, deployment_specs
from pconv_deploy.engines.backends.tensorrt.profiles import profiles_for
from pconv_deploy.engines.shapes import Profile, Shape, choose, judged_batches
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
        "1x256x256 .. 1x512x512, tuned for 1x512x512",
        "1x256x256 .. 1x1024x1024, tuned for 1x1024x1024",
        "1x256x256 .. 8x512x512, tuned for 8x512x512",
        "1x256x256 .. 8x1024x1024, tuned for 8x1024x1024",
        "1x256x256 .. 32x512x512, tuned for 32x512x512",
    ]


def test_sides_are_multiples_of_what_the_network_halves() -> None:
    assert described(multiple=48)[1] == "1x48x48 .. 1x1008x1008, tuned for 1x1008x1008"
    assert described(multiple=1024, batch=1) == ["1x1024x1024"]
    assert described(multiple=1)[0].startswith("1x1x1 .. 1x512x512")


def test_what_the_graph_fixes_is_fixed() -> None:
    assert described(batch=2, size=(256, 768)) == ["2x256x768"]
    assert profiles_for(contract(), [only(3, 256, 512)]) == (only(3, 256, 512),)  # wanted ones
    assert described(size=(256, 768)) == [
        "1x256x768",
        "1x256x768 .. 8x256x768, tuned for 8x256x768",
        "1x256x768 .. 32x256x768, tuned for 32x256x768",
    ]
    assert described(batch=4) == [
        "4x256x256 .. 4x512x512, tuned for 4x512x512",
        "4x256x256 .. 4x1024x1024, tuned for 4x1024x1024",
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


def judged(profiles: Sequence[Profile], **kind: Any) -> list[Shape]:
    """The shapes an engine is compared in; each must be taken."""
    batches = judged_batches(profiles, contract(**kind))
    for batch in batches:
        assert len({case.hole_mask.shape for case in batch}) == 1
    return [(len(batch), *batch[0].hole_mask.shape) for batch in batches]


def test_each_profile_is_judged_and_all_kinds_of_holes_are() -> None:
    ladder = profiles_for(contract(64))
    shapes = judged(ladder, multiple=64)
    assert shapes == [(3, 64, 64)] * 3 + [(2, 64, 128)] + [profile.max for profile in ladder]
    assert {choose(ladder, shape) for shape in shapes} == set(range(len(ladder)))


def test_the_best_shape_is_judged_too() -> None:
    profile = Profile(min=(1, 64, 64), opt=(2, 128, 64), max=(4, 128, 128))
    assert judged([profile], multiple=64)[4:] == [(2, 128, 64), (4, 128, 128)]
    assert judged([profile, profile], multiple=64) == judged([profile], multiple=64)


@pytest.mark.parametrize("turned", [False, True])
def test_each_of_two_that_overlap_is_judged(turned: bool) -> None:
    wide = Profile(min=(1, 256, 256), opt=(1, 512, 512), max=(1, 512, 512))
    both = [wide, only(1, 512, 512)][:: -1 if turned else 1]
    assert both[choose(both, (1, 512, 512))] is not wide  # the other was made for just that
    shapes = judged(both, multiple=64)
    assert {choose(both, shape) for shape in shapes} == {0, 1}


def test_where_no_profile_takes_the_usual_cases_the_least_shape_has_them() -> None:
    narrow = Profile(min=(2, 128, 64), opt=(2, 128, 128), max=(2, 128, 128))
    batches = judged_batches([narrow, only(3, 64, 64)], contract(64))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2, 2, 3]
    nine = {case.name for batch in batches[:5] for case in batch}
    assert len(nine) == 9
    assert all(case.hole_mask.shape == (128, 64) for batch in batches[:5] for case in batch)


def test_what_is_too_large_for_the_reference_is_not_judged() -> None:
    huge = Profile(min=(1, 64, 64), opt=(1, 1024, 1024), max=(1, 4096, 4096))
    assert judged([huge], multiple=64)[-1] == (1, 1024, 1024)
    many = Profile(min=(1, 64, 64), opt=(512, 1024, 1024), max=(512, 1024, 1024))
    assert judged([many], multiple=64)[-1] == (1, 64, 64)


def test_cases_take_turns_and_are_the_same_in_all_batches_of_a_size() -> None:
    batches = judged_batches([only(n, 128, 128) for n in (2, 1, 5)], contract(64))
    small, large = batches[-2:]
    assert [case.name for case in large] == [
        "irregular hole 20%-30%, 128x128",
        "irregular hole 50%-60%, 128x128",
        "one known pixel",
        "irregular hole 20%-30%, 128x128",
        "irregular hole 50%-60%, 128x128",
    ]
    assert large[0] is large[3] is small[0]
