"""From the backend's file to a filled image, with the fakes below everything."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.engines.backends.tensorrt.backend import PLAN as PLAN_FILE
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.errors import EngineError
from tests.engines.cuda.cuda_names import Status
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_tensorrt import LARGE, PLAN, FakeTensorRt, filled, images


def test_the_backend_opens_its_file(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt(gpu, LARGE))
    (tmp_path / PLAN_FILE).write_bytes(PLAN)
    session = TensorRtBackend().open(files_just_built(tmp_path), "fp16", RunOptions(streams=3))
    assert gpu.left()["streams"] == 3
    inputs = images((2, 48, 32))
    expected = filled(inputs[IMAGE], inputs[HOLE_MASK])
    np.testing.assert_array_equal(session.run(inputs)[FILLED], expected)
    session.close()
    assert gpu.left() == {}


def test_the_backend_says_why_it_cannot(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt(gpu, LARGE))
    (tmp_path / PLAN_FILE).write_bytes(PLAN)
    gpu.fail_in = {"cudaGetDeviceCount": Status.cudaErrorInsufficientDriver}
    with pytest.raises(EngineError, match="the NVIDIA driver is too old: found one for"):
        TensorRtBackend().open(files_just_built(tmp_path), "fp16", RunOptions())
