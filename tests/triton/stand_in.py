"""A stand-in for a Triton server: its protocol, and its checks of shapes, before ONNX Runtime."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.triton.conftest import parsed

_DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


class _Model:
    """Answers for the one model in `folder`; `batches` are the batch sizes it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.batches: list[int] = []
        self._config = parsed(folder / "config.pbtxt")
        self._session = onnxruntime.InferenceSession(
            folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802  the protocol's name
        self._require(request.name == self._config.name, context, f"no model {request.name}")
        return service_pb2.ModelConfigResponse(config=self._config)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._require(request.model_name == self._config.name, context, "no such model")
        inputs = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            self._check(tensor, context)
            array = np.frombuffer(raw, _DTYPES[tensor.datatype])
            inputs[tensor.name] = array.reshape(tensor.shape)
        self.batches.append(len(next(iter(inputs.values()))))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        names = [output.name for output in self._config.output]
        for name, array in zip(names, self._session.run(names, inputs), strict=True):
            answer.outputs.add(name=name, datatype="UINT8", shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    def _check(self, tensor: Any, context: Any) -> None:
        (known,) = [known for known in self._config.input if known.name == tensor.name]
        sides = list(tensor.shape)
        if self._config.max_batch_size:
            few = 1 <= sides.pop(0) <= self._config.max_batch_size
            self._require(few, context, f"{tensor.name}: batch of {tensor.shape[0]}")
        fits = len(sides) == len(known.dims) and all(
            dim in (-1, side) for dim, side in zip(known.dims, sides, strict=True)
        )
        self._require(fits, context, f"{tensor.name}: shape {list(tensor.shape)}")

    @staticmethod
    def _require(holds: bool, context: Any, complaint: str) -> None:
        if not holds:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, complaint)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve a model folder; gives the address and the list of batch sizes that were asked for."""
    model = _Model(folder)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_servicer(model), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", model.batches
    finally:
        server.stop(None).wait()


def _servicer(model: _Model) -> Any:
    servicer = service_pb2_grpc.GRPCInferenceServiceServicer()
    servicer.ModelConfig, servicer.ModelInfer = model.ModelConfig, model.ModelInfer
    return servicer
