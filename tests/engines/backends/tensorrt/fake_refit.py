"""What we use of TensorRT's refit, on a plan that is an ONNX file: no engine has been refitted.

A fake plan computes the graph that it was made of, with the weights that were put into it, in ONNX
Runtime. So weights that end up in the wrong place are noticed.
"""

import enum
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pconv_deploy.contract import RAW_OUTPUT, GraphContract
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import Arrays

_REFITTABLE = "refittable"


def fake_plan(graph: bytes, *, stripped: bool = False, refittable: bool = True) -> bytes:
    """A plan that computes `graph`, inlined; stripped, its weights are NaN."""
    model = onnx.load_from_string(graph)
    if stripped:
        for tensor in _weights(model).values():
            _set(tensor, np.full(tuple(tensor.dims), np.nan))
    del model.metadata_props[:]
    if refittable:
        model.metadata_props.add(key=_REFITTABLE, value="yes")
    content: bytes = model.SerializeToString()
    return content


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    found = {t.name: t for t in model.graph.initializer}
    found |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return {name: tensor for name, tensor in found.items() if tensor.data_type in types}


def _set(tensor: onnx.TensorProto, values: Any) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), tensor.name))


class SerializationFlag(enum.IntEnum):
    EXCLUDE_WEIGHTS = 0
    EXCLUDE_LEAN_RUNTIME = 1
    INCLUDE_REFIT = 2


class OlderSerializationFlag(enum.IntEnum):
    """As before 10.14."""

    EXCLUDE_WEIGHTS = 0
    EXCLUDE_LEAN_RUNTIME = 1


class FakeSerializationConfig:
    def __init__(self) -> None:
        self.flags = {int(SerializationFlag.EXCLUDE_WEIGHTS)}

    def set_flag(self, flag: int) -> bool:
        self.flags.add(int(flag))
        return True

    def clear_flag(self, flag: int) -> bool:
        self.flags.discard(int(flag))
        return True


class FakeEngine:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    @property
    def refittable(self) -> bool:
        return any(entry.key == _REFITTABLE for entry in self.model.metadata_props)

    def create_serialization_config(self) -> FakeSerializationConfig:
        return FakeSerializationConfig()

    def serialize_with_config(self, config: FakeSerializationConfig) -> bytes:
        return fake_plan(
            self.model.SerializeToString(),
            stripped=int(SerializationFlag.EXCLUDE_WEIGHTS) in config.flags,
            refittable=int(SerializationFlag.INCLUDE_REFIT) in config.flags,
        )


class FakeRuntime:
    def __init__(self, _log: Any) -> None:
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine:
        return FakeEngine(onnx.load_from_string(plan))


class FakeRefitter:
    """Takes weights by name; forgets the one named `lost`."""

    lost: str | None = None

    def __init__(self, engine: FakeEngine, _log: Any) -> None:
        self.wanted = _weights(engine.model)
        self.given: dict[str, Any] = {}

    def get_all_weights(self) -> list[str]:
        return list(self.wanted)

    def get_missing_weights(self) -> list[str]:
        """Of what has been left out; what is there already may stay."""
        stripped = [n for n, t in self.wanted.items() if np.isnan(_values(t)).any()]
        return [name for name in stripped if name not in self.given]

    def set_named_weights(self, name: str, values: Any) -> bool:
        if tuple(self.wanted[name].dims) != values.shape:
            return False
        self.given[name] = values
        return True

    def refit_cuda_engine(self) -> bool:
        for name, values in self.given.items():
            if name != self.lost:
                _set(self.wanted[name], values)
        return not self.get_missing_weights()


def _values(tensor: onnx.TensorProto) -> Any:
    return numpy_helper.to_array(tensor).astype(np.float32)


class FakeOnnxParserRefitter:
    """As TensorRT's: every weight of the plan has to be in the graph, by its name."""

    def __init__(self, refitter: FakeRefitter, _log: Any) -> None:
        self._refitter = refitter
        self._errors: list[str] = []

    def refit_from_bytes(self, model: bytes) -> bool:
        found = _weights(onnx.load_from_string(model))
        for name in self._refitter.wanted:
            if name in found and not self._refitter.set_named_weights(name, _values(found[name])):
                self._errors.append(f"Failed to set named weights {name}")
        done = len(self._refitter.given)
        if done < len(self._refitter.wanted) and not self._errors:
            self._errors.append(f"Only successfully refitted {done} weights")
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(
            node_name=lambda: "", node_operator=lambda: "", desc=lambda: self._errors[index]
        )


class FakeSession:
    """What a plan computes; a deployment engine does not show its raw output."""

    def __init__(self, plan: bytes, contract: GraphContract) -> None:
        self._run = graph_run(onnx.load_from_string(plan), contract, optimised=True)

    def run(self, inputs: Arrays) -> Arrays:
        outputs: Mapping[str, Any] = self._run(inputs)
        return {name: value for name, value in outputs.items() if name != RAW_OUTPUT}

    def close(self) -> None:
        """Nothing to free."""
