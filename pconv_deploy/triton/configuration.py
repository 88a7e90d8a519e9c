"""How an engine is served, as Triton's ModelConfig: from the manifest alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pconv_deploy.contract import TensorSpec
from pconv_deploy.engines.manifest import Manifest, describe_parity
from pconv_deploy.engines.shapes import Shape
from pconv_deploy.errors import UsageError
from pconv_deploy.triton.protobuf_text import Message, Name, Value, entries
from pconv_deploy.triton.shapes import ServedShapes, listed, served_shapes

# By this parameter clients learn how to feed the model, and we know a model folder of ours.
CONTRACT_PARAMETER = "pconv_deploy.contract"
_TYPES = {"uint8": Name("TYPE_UINT8"), "float32": Name("TYPE_FP32")}


@dataclass(frozen=True)
class Platform:
    """What Triton calls a kind of engine, and its file by our name and by Triton's.

    provider  what ONNX Runtime is told of its CUDA provider, if that is to run it
    """

    backend: str
    platform: str
    ours: str
    theirs: str
    provider: tuple[tuple[str, str], ...] = ()


PLATFORMS: Mapping[str, Platform] = {
    "tensorrt": Platform("tensorrt", "tensorrt_plan", "engine.plan", "model.plan"),
    "onnxruntime": Platform("onnxruntime", "onnxruntime_onnx", "model.onnx", "model.onnx"),
    "onnxruntime-cuda": Platform(
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        ours="model.onnx",
        theirs="model.onnx",
        # As it was accepted: fp32 is not rounded.
        provider=(("use_tf32", "0"), ("cudnn_conv_use_max_workspace", "1")),
    ),
}


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How Triton is to serve an engine.

    max_batch_size   images that Triton may join to one run; None: as many as the engine takes at
                     each of its sizes, or Triton's own default where the engine has no limit
    max_queue_delay  microseconds that a request may wait for others to join it
    instances        that run at once, on each GPU or on the CPU
    gpus             numbers of the GPUs; none: all that the server has
    threads          of each instance on the CPU; None: one for each core
    profiles         numbers of the TensorRT profiles that are served; none: all
    """

    max_batch_size: int | None = None
    max_queue_delay: int | None = None
    instances: int = 1
    gpus: tuple[int, ...] = ()
    threads: int | None = None
    profiles: tuple[int, ...] = ()


def configuration(manifest: Manifest, name: str, options: ServeOptions) -> Message:
    """Describe the model, in Triton's names; `manifest` is of one of the PLATFORMS.

    Raises:
        UsageError: options that contradict the engine.
        EngineError: Triton cannot serve its profiles.
    """
    contract, platform = manifest.contract, PLATFORMS[manifest.backend]
    shapes = _shapes(manifest, options)
    most = shapes.max_batch_size
    return {
        "name": name,
        "platform": platform.platform,
        "backend": platform.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": most,
        "input": [_tensor(spec, shapes) for spec in contract.inputs],
        "output": [_tensor(spec, shapes) for spec in contract.outputs],
        **_dynamic_batching(shapes, options),
        "instance_group": [_instances(manifest, shapes, options)],
        **_optimization(platform, contract.inputs, shapes),
        "model_warmup": [_warm_up(contract.inputs, s, most) for s in shapes.rehearsed],
        "parameters": entries(_parameters(manifest, options)),
    }


def _shapes(manifest: Manifest, options: ServeOptions) -> ServedShapes:
    there = dict(enumerate(manifest.engine.profiles))
    if unknown := set(options.profiles) - there.keys():
        raise UsageError(f"found --profiles {min(unknown)}; this engine has {listed(there)}")
    chosen = {n: p for n, p in there.items() if not options.profiles or n in options.profiles}
    return served_shapes(manifest.contract, chosen, options.max_batch_size)


def _tensor(spec: TensorSpec, shapes: ServedShapes) -> Message:
    shape = (shapes.batch or 0, shapes.height, shapes.width)
    dims = _dims(spec, shape, shapes.max_batch_size)
    return {"name": spec.name, "data_type": _TYPES[spec.dtype], "dims": dims}


def _dims(spec: TensorSpec, shape: tuple[int, int, int], most: int) -> Sequence[int]:
    """Sides of a tensor for (batch, height, width), without the batch where Triton adds it."""
    known = dict(zip("NHW", shape, strict=True))
    sides = (known.get(letter, side) for letter, side in zip(spec.layout, spec.shape, strict=True))
    numbers = [side for side in sides if isinstance(side, int)]
    return numbers[1:] if most else numbers


def _dynamic_batching(shapes: ServedShapes, options: ServeOptions) -> Mapping[str, Value]:
    most = shapes.max_batch_size
    if most < 2:
        if options.max_queue_delay is not None:
            raise UsageError(
                "--max-queue-delay waits for requests to join, but "
                + ("batches are of one image" if most else f"batches are of {shapes.batch}")
            )
        return {}
    # Where the engine was tuned for it, and only there, one batch is better than a larger one.
    tuned = sorted({p.opt[0] for p in shapes.profiles.values() if 1 < p.opt[0] <= most})
    batching: dict[str, Value] = {"preferred_batch_size": tuned} if tuned else {}
    if options.max_queue_delay:
        batching["max_queue_delay_microseconds"] = options.max_queue_delay
    return {"dynamic_batching": batching}


def _instances(manifest: Manifest, shapes: ServedShapes, options: ServeOptions) -> Message:
    """One group for all profiles: Triton then chooses the nearest one for every batch."""
    on_cpu = manifest.built_with.device == "cpu"
    if options.gpus and on_cpu:
        raise UsageError("--gpus is for engines that run on a GPU; this one runs on the CPU")
    if options.threads and not on_cpu:
        raise UsageError("--threads is for engines that run on the CPU; this one runs on a GPU")
    return {
        "kind": Name("KIND_CPU" if on_cpu else "KIND_GPU"),
        "count": options.instances,
        "gpus": options.gpus,
        "profile": [str(number) for number in shapes.profiles],
    }


def _optimization(
    platform: Platform, inputs: Sequence[TensorSpec], shapes: ServedShapes
) -> Mapping[str, Value]:
    """CUDA graphs of the batches each profile was made for; options of ONNX Runtime's provider."""
    if platform.provider:
        cuda: Message = {"name": "cuda", "parameters": entries(dict(platform.provider))}
        return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": cuda}}}
    most = shapes.max_batch_size
    specs: list[Message] = [
        {
            "batch_size": shape[0] if most else 0,
            "input": entries({spec.name: {"dim": _dims(spec, shape, most)} for spec in inputs}),
        }
        for shape in shapes.captured
    ]
    return {"optimization": {"cuda": {"graphs": True, "graph_spec": specs}}} if specs else {}


def _warm_up(inputs: Sequence[TensorSpec], shape: Shape, most: int) -> Message:
    """Any bytes are an image and a mask; any bits of floats are not."""
    return {
        "name": "x".join(map(str, shape)),
        "batch_size": shape[0] if most else 1,
        "inputs": entries(
            {
                spec.name: {
                    "data_type": _TYPES[spec.dtype],
                    "dims": _dims(spec, shape, most),
                    "random_data" if spec.dtype == "uint8" else "zero_data": True,
                }
                for spec in inputs
            }
        ),
    }


def _parameters(manifest: Manifest, options: ServeOptions) -> Mapping[str, Message]:
    """Facts for clients and operators; `intra_op_thread_count` alone is for the backend."""
    file = PLATFORMS[manifest.backend].ours
    facts = {
        "pconv_deploy.size_multiple": str(manifest.contract.size_multiple),
        "pconv_deploy.precision": manifest.precision,
        "pconv_deploy.engine_sha256": manifest.files[file].sha256,
        "pconv_deploy.graph_sha256": manifest.graph_sha256,
        "pconv_deploy.built_with": manifest.built_with.runtime().describe(),
        "pconv_deploy.engine_parity": describe_parity(manifest),
        CONTRACT_PARAMETER: msgspec.json.encode(manifest.contract).decode(),
    }
    if options.threads:
        facts["intra_op_thread_count"] = str(options.threads)
    return {key: {"string_value": fact} for key, fact in facts.items()}
