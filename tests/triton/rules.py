"""What Triton and its backends demand of a configuration, beyond what its schema can say.

Written from what its documentation and its messages say of each field.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from pconv_deploy.contract import GraphContract, TensorSpec
from pconv_deploy.engines.shapes import Profile, Shape

_DTYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def check(config: Any, contract: GraphContract, profiles: tuple[Profile, ...] = ()) -> None:
    """Fail where Triton would refuse `config`, or serve an engine of these profiles wrongly."""
    assert (config.platform, config.backend) in {
        ("tensorrt_plan", "tensorrt"),
        ("onnxruntime_onnx", "onnxruntime"),
    }
    assert config.HasField("version_policy")
    assert config.max_batch_size >= 0
    _check_batching(config)
    _check_instances(config, len(profiles))
    _check_tensors(config, contract)
    served = [profiles[int(number)] for number in config.instance_group[0].profile]
    for shape in (*_warm_ups(config, contract), *_graphs(config, contract)):
        assert not served or any(profile.takes(shape) for profile in served), shape
    assert _sizes_with_every_batch(config, served)


def _check_batching(config: Any) -> None:
    if config.HasField("dynamic_batching"):
        assert config.max_batch_size > 1
        for size in config.dynamic_batching.preferred_batch_size:
            assert 0 < size <= config.max_batch_size


def _check_instances(config: Any, profiles: int) -> None:
    for group in config.instance_group:
        assert group.count >= 1
        kind = group.Kind.Name(group.kind)
        assert kind == "KIND_GPU" or (kind == "KIND_CPU" and not group.gpus)
        if config.backend == "tensorrt":
            assert kind == "KIND_GPU"
            assert {int(number) for number in group.profile} <= set(range(profiles))
        else:
            assert not group.profile


def _check_tensors(config: Any, contract: GraphContract) -> None:
    for found, specs in ((config.input, contract.inputs), (config.output, contract.outputs)):
        assert [tensor.name for tensor in found] == [spec.name for spec in specs]
        for tensor, spec in zip(found, specs, strict=True):
            assert tensor.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number[
                tensor.data_type
            ].name == _DTYPES[spec.dtype]  # fmt: skip
            dims = [-1, *tensor.dims] if config.max_batch_size else list(tensor.dims)
            _check_dims(dims, spec)


def _check_dims(dims: list[int], spec: TensorSpec) -> None:
    """A side of the graph that is a number must be that number, a free one may be narrowed."""
    assert len(dims) == len(spec.shape)
    for side, there in zip(dims, spec.shape, strict=True):
        assert side == there or (isinstance(there, str) and (side == -1 or side > 0))


def _warm_ups(config: Any, contract: GraphContract) -> Iterator[Shape]:
    assert config.model_warmup
    for sample in config.model_warmup:
        assert sample.batch_size >= 1
        assert sample.batch_size <= max(config.max_batch_size, 1)
        assert set(sample.inputs) == {spec.name for spec in contract.inputs}
        dims = {}
        for tensor in config.input:
            given = sample.inputs[tensor.name]
            assert given.data_type == tensor.data_type
            assert given.WhichOneof("input_data_type")
            dims[tensor.name] = list(given.dims)
        yield _shape(dims, sample.batch_size, config, contract)


def _graphs(config: Any, contract: GraphContract) -> Iterator[Shape]:
    cuda = config.optimization.cuda
    assert bool(cuda.graph_spec) == cuda.graphs
    for spec in cuda.graph_spec:
        # Without batching 0 stands for it.
        assert (spec.batch_size > 0) == (config.max_batch_size > 0)
        assert spec.batch_size <= config.max_batch_size
        dims = {name: list(shape.dim) for name, shape in spec.input.items()}
        yield _shape(dims, spec.batch_size, config, contract)


def _shape(dims: dict[str, list[int]], batch: int, config: Any, contract: GraphContract) -> Shape:
    """The batch, height and width of a request, on which all of its inputs must agree."""
    found = set()
    for tensor, spec in zip(config.input, contract.inputs, strict=True):
        for side, allowed in zip(dims[tensor.name], tensor.dims, strict=True):
            assert side == allowed or (allowed == -1 and side > 0)
        full = [batch, *dims[tensor.name]] if config.max_batch_size else dims[tensor.name]
        known = dict(zip(spec.layout, full, strict=True))
        found.add((known["N"], known["H"], known["W"]))
    (shape,) = found
    assert shape[1] % contract.size_multiple == shape[2] % contract.size_multiple == 0
    return shape


def _sizes_with_every_batch(config: Any, served: list[Profile]) -> bool:
    """Whether whatever Triton may join, at any size that is served, is taken by a profile."""
    if not config.max_batch_size or not served:
        return True
    sides = sorted({side for p in served for shape in (p.min, p.max) for side in shape[1:]})
    between = [(a + b) // 2 for a, b in itertools.pairwise(sides)]
    return all(
        any(p.takes((batch, height, width)) for p in served)
        for height in (*sides, *between)
        for width in (*sides, *between)
        if any(p.takes((p.min[0], height, width)) for p in served)
        for batch in range(1, config.max_batch_size + 1)
    )
