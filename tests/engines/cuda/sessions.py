"""A session that was opened, and a run of it that must be right."""

from collections.abc import Callable

import numpy as np

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession
from tests.engines.cuda.fake_tensorrt import filled, images

Open = Callable[..., TensorRtSession]


def run_right(session: TensorRtSession, shape: tuple[int, int, int], seed: int = 0) -> None:
    inputs = images(shape, seed)
    outputs = session.run(inputs)
    assert list(outputs) == [FILLED]
    np.testing.assert_array_equal(outputs[FILLED], filled(inputs[IMAGE], inputs[HOLE_MASK]))
