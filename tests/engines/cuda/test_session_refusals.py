"""Plans, shapes and machines that a session refuses, and in which words."""

from typing import Any

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import EngineError, InputError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_device import Status
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, SMALL, FakeTensorRt, Type, images
from tests.engines.cuda.sessions import Open, run_right


def test_shapes_outside_of_every_profile_are_told_which_there_are(opened: Open) -> None:
    session = opened()
    with pytest.raises(EngineError, match=r"batch 5 of 64x64") as error:
        session.run(images((5, 64, 64)))
    for profile in (SMALL, LARGE):
        assert profile.describe() in str(error.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        (IMAGE, np.zeros((1, 32, 32, 3), np.float32), "found image of float32; needed uint8"),
        (IMAGE, np.zeros((1, 3, 32, 32), np.uint8), r"\[1, 3, 32, 32\]; needed \[1, 32, 32, 3\]"),
        (IMAGE, np.zeros((2, 32, 32, 3), np.uint8), r"\[2, 32, 32, 3\]; needed \[1, 32, 32, 3\]"),
        (HOLE_MASK, np.zeros((32, 32), np.uint8), r"hole_mask of shape \[32, 32\]; needed \(NHW"),
        (HOLE_MASK, np.zeros((1, 32, 32), bool), "found hole_mask of bool; needed uint8"),
        (IMAGE, [[1]], "found image as list; needed a NumPy array. Arrays on the GPU go to"),
        ("mask", np.zeros(1), r"found inputs \['image', 'hole_mask', 'mask'\]; needed \['image'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    opened: Open, name: str, array: Any, words: str
) -> None:
    session = opened()
    with pytest.raises(InputError, match=words):
        session.run({**images((1, 32, 32)), name: array})


def test_a_plan_that_tensorrt_refuses(gpu: FakeCuda, opened: Open) -> None:
    with pytest.raises(EngineError, match="does not load the plan: the plan has another version"):
        opened(b"x")
    assert gpu.left() == {}


def test_a_plan_of_somebody_else(library: FakeTensorRt, opened: Open) -> None:
    library.tensors = {"x": Type.UINT8, "y": Type.UINT8}
    with pytest.raises(EngineError, match=r"tensors \['x', 'y'\]; it was not built by us"):
        opened()
    library.tensors = {IMAGE: Type.INT8, HOLE_MASK: Type.INT8, FILLED: Type.INT8}
    with pytest.raises(EngineError, match="whose image is of 2; it was not built by us"):
        opened()


def test_a_plan_of_fixed_shapes_has_one_profile(gpu: FakeCuda) -> None:
    fixed = Profile(min=(2, 32, 48), opt=(2, 32, 48), max=(2, 32, 48))
    session = TensorRtSession(FakeTensorRt(gpu, fixed), PLAN)  # type: ignore[arg-type]
    run_right(session, (2, 32, 48))
    with pytest.raises(EngineError, match="2x32x48"):
        session.run(images((1, 32, 48)))


def test_without_a_gpu_tensorrt_is_not_touched(gpu: FakeCuda, opened: Open) -> None:
    gpu.fail_in = {"cudaGetDeviceCount": Status.cudaErrorNoDevice}
    with pytest.raises(EngineError, match="no GPU can be used: CUDA sees no GPU"):
        opened()
