"""What the machine's convolutions can do at best, in each precision, by the runtimes here."""

import itertools

import numpy as np
import onnx

from pconv_deploy.benchmark.suite_engines import runnable
from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.base import ignore_progress
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.files import scratch_folder
from pconv_deploy.parity import Precision
from pconv_deploy.timing import Contender, take_turns

_CHANNELS, _SIDE, _LAYERS = 256, 64, 4  # wide, 3x3, in the cache; several, as ends cost
_ROUNDS = 15


def convolution_ceilings(contract: GraphContract) -> dict[Precision, float]:
    """Measure GFLOP/s of the fastest runtime on the convolutions that all are good at.

    contract: of any graph; backends ask for one.
    """
    plain, x = _convolutions()
    found: dict[Precision, float] = {}
    for backend, precision in runnable(ignore_progress):
        model = plain
        if precision == "int8":
            model = in_eight_bits(plain.SerializeToString(), [{"x": x}], backend)
        with scratch_folder() as folder:
            backend.build(model.SerializeToString(), contract, precision, folder)
            session = backend.open(files_just_built(folder), precision, RunOptions())
            turn = Contender(lambda session=session: session.run({"x": x}), pause=0)  # type: ignore[misc]
            seconds = min(take_turns({"": turn}, _ROUNDS, warm_up=1)[""])
            session.close()
        flop = 2 * _LAYERS * 9 * _CHANNELS**2 * _SIDE**2
        found[precision] = max(found.get(precision, 0.0), round(flop / seconds / 1e9, 1))
    return found


def _convolutions() -> tuple[onnx.ModelProto, np.ndarray]:
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    shape = (1, _CHANNELS, _SIDE, _SIDE)
    names = ["x", *(f"y{layer}" for layer in range(_LAYERS))]
    weights = [
        rng.normal(0, 1 / np.sqrt(9 * _CHANNELS), (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        for _ in range(_LAYERS)
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [a, f"w{b}"], [b], name=f"conv.{b}", pads=[1, 1, 1, 1])
            for a, b in itertools.pairwise(names)
        ],
        "ceiling",
        [helper.make_tensor_value_info("x", floats, shape)],
        [helper.make_tensor_value_info(names[-1], floats, shape)],
        [
            onnx.numpy_helper.from_array(weight, f"w{name}")
            for name, weight in zip(names[1:], weights, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, rng.normal(size=shape).astype(np.float32)
