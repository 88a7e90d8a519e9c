"""A graph and options become a plan: the one file that TensorRT runs."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.config import configure
from pconv_deploy.engines.backends.tensorrt.layers import LayerReport
from pconv_deploy.engines.backends.tensorrt.library import Flavour, format_errors, new_log
from pconv_deploy.engines.backends.tensorrt.network import parse
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.profiles import (
    profiles_for,
    tensor_shape,
    window_profiles,
    windows_within,
)
from pconv_deploy.engines.backends.tensorrt.progress import new_monitor, stoppable
from pconv_deploy.engines.backends.tensorrt.timing_cache import TimingCache, require_file_name
from pconv_deploy.engines.base import Progress
from pconv_deploy.engines.shapes import Profile, Shape
from pconv_deploy.engines.windows.plan import WINDOWS, WindowRule
from pconv_deploy.errors import EngineError, UsageError

_LOG = logging.getLogger(__name__)
_DEFAULT_STREAM = 0


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """A plan, which is TensorRT's own file, and what is known of it."""

    content: bytes
    profiles: tuple[Profile, ...]
    layers: LayerReport
    build_seconds: float


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to build. graph: an ONNX file's content, of the precision that is wanted."""

    graph: bytes
    contract: GraphContract
    options: TensorRtOptions


def build_plan(
    flavour: Flavour,
    library: ModuleType,
    request: PlanRequest,
    no_gpu: str | None,
    progress: Progress,
) -> BuiltPlan:
    """Build a plan, and inspect it where there is a GPU.

    Args:
        flavour: of TensorRT, for messages.
        library: what is installed of it.
        request: what to build.
        no_gpu: why there is none here that the plan is for, if so.
        progress: is told each percent; if it raises, the build is cancelled.

    Raises:
        EngineError: TensorRT cannot; the message ends with its own words.
        UsageError: an option that the installed release does not have, or a profile that does not
            fit the graph.
        GraphError: see `network.parse`.
        InputError, OutputError: the timing cache's file cannot be read or written.
    """
    options = request.options
    profiles = profiles_for(request.contract, options.profiles)
    log = new_log(library)
    try:
        builder = library.Builder(log)
    except (TypeError, RuntimeError) as error:
        raise _failure(flavour, log.errors or [str(error)], no_gpu) from error
    config = builder.create_builder_config()
    configure(flavour, library, config, options)
    parsed = parse(library, builder, log, request.graph)
    profiles = _add_profiles(builder, config, request.contract, profiles, parsed.windows)
    cache = _timing_cache(config, log, options, no_gpu)
    monitor = new_monitor(library, flavour.title, progress)
    config.progress_monitor = monitor
    started = time.perf_counter()
    with stoppable(monitor):
        plan = builder.build_serialized_network(parsed.network, config)
    seconds = round(time.perf_counter() - started, 3)
    if plan is None:
        raise _failure(flavour, log.errors, no_gpu)
    if cache:
        cache.save()
    content = bytes(plan)
    layers = LayerReport(graph=parsed.convolutions)
    if not no_gpu:
        answers = _inspected(library, log, content, request, profiles)
        layers = msgspec.structs.replace(layers, engine=answers)
    return BuiltPlan(content=content, profiles=profiles, layers=layers, build_seconds=seconds)


def _add_profiles(
    builder: Any,
    config: Any,
    contract: GraphContract,
    profiles: tuple[Profile, ...],
    windows: WindowRule | None,
) -> tuple[Profile, ...]:
    """Tell TensorRT the shapes; a graph without free sizes has none to tell."""
    if windows:
        numbered = window_profiles(profiles, windows)
    elif contract.batch and contract.size:
        return profiles
    else:
        numbered = tuple((profile, 0) for profile in profiles)
    for profile, count in numbered:
        told = builder.create_optimization_profile()
        for spec in contract.inputs:
            shapes = (tensor_shape(spec, s) for s in (profile.min, profile.opt, profile.max))
            told.set_shape(spec.name, *shapes)
        if windows:  # read on the host, before anything runs
            told.set_shape_input(WINDOWS, *windows_within(profile, windows, count))
        if config.add_optimization_profile(told) < 0:
            raise UsageError(f"TensorRT refuses the profile {profile.describe()}")
    return tuple(profile for profile, _ in numbered)


def _timing_cache(
    config: Any, log: Any, options: TensorRtOptions, no_gpu: str | None
) -> TimingCache | None:
    if options.timing_cache is None:
        return None
    path = Path(options.timing_cache)
    if no_gpu:
        # Nothing is measured, and TensorRT would take what others have for damaged.
        require_file_name(path)
        _LOG.warning("the timing cache %s is not used without a GPU: %s", path, no_gpu)
        return None
    return TimingCache(config, log, path)


def _inspected(
    library: ModuleType,
    log: Any,
    plan: bytes,
    request: PlanRequest,
    profiles: Sequence[Profile],
) -> msgspec.Raw:
    """Return what the engine inspector says, in JSON. Without a GPU it must not be asked."""
    runtime = library.Runtime(log)
    if request.options.version_compatible:  # just built: what it brings along is TensorRT's own
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT does not load what it has built: {format_errors(log.errors)}")
    told = []
    for index in range(engine.num_optimization_profiles):
        inspector = engine.create_engine_inspector()
        # Only in a context it tells sizes and formats. One without weights may have none.
        if context := _context_at(library, engine, request.contract, index, profiles[index].opt):
            inspector.execution_context = context
        told.append(inspector.get_engine_information(library.LayerInformationFormat.JSON))
    return msgspec.Raw(msgspec.json.encode([_json(answer) for answer in told]))


def _json(answer: str) -> msgspec.Raw:
    """Return an answer as it came, or as a string if it is not JSON."""
    try:
        msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return msgspec.Raw(msgspec.json.encode(answer))
    return msgspec.Raw(answer.encode())


def _context_at(
    library: ModuleType, engine: Any, contract: GraphContract, profile: int, shape: Shape
) -> Any:
    """A context that knows its shapes and has no memory to run in; None if there can be none."""
    context = engine.create_execution_context(
        library.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    if context is None:
        return None
    if profile and not context.set_optimization_profile_async(profile, _DEFAULT_STREAM):
        return None
    shapes = [(spec.name, tensor_shape(spec, shape)) for spec in contract.inputs]
    return context if all(context.set_input_shape(*named) for named in shapes) else None


def _failure(flavour: Flavour, errors: list[str], no_gpu: str | None) -> EngineError:
    said = format_errors(errors)
    hint = f"\n  It may need a GPU to build this: {no_gpu}" if no_gpu else ""
    if "memory" in said.lower():
        hint += "\n  Take smaller shapes (--max-shapes), or less --workspace"
    return EngineError(f"{flavour.title} cannot build the engine: {said}{hint}")
