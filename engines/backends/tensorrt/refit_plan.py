"""Other weights for a plan, put in by TensorRT itself: its kernels and their choice stay."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from pconv_deploy.engines.backends.tensorrt.library import Flavour, format_errors, new_log
from pconv_deploy.engines.backends.tensorrt.network import as_read, format_parser_errors
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.errors import EngineError

if TYPE_CHECKING:
    import onnx

_SHOWN = 5  # names in a message


def refit_plan(
    flavour: Flavour,
    library: ModuleType,
    plan: bytes,
    graph: bytes,
    options: TensorRtOptions,
) -> tuple[bytes, bool]:
    """Put a graph's weights into a plan that was built from another graph of the same layers.

    Args:
        flavour: of TensorRT, for messages.
        library: what is installed of it.
        plan: built with `options`.
        graph: an ONNX file's content, in the form and precision of the plan's own.
        options: with which the plan was built; a plan that was to be refittable stays so, where
            the installed release can write such.

    Returns:
        The plan with its weights inside, and whether they can be swapped once more.

    Raises:
        EngineError: TensorRT cannot read the plan, its weights cannot be swapped, or the graph
            has not all of them; the message names them.
        GraphError: see `network.as_read`.
    """
    log = new_log(library)
    model = as_read(graph)
    # It owns the engine; all of these must live until the weights are in.
    runtime = library.Runtime(log)
    # A version compatible plan brings code along, without which it is not read.
    runtime.engine_host_code_allowed = options.version_compatible
    engine = _engine(flavour, runtime, log, plan)
    if not engine.refittable:
        raise EngineError(f"{flavour.title} says that the weights of this plan cannot be swapped")
    refitter = library.Refitter(engine, log)
    parser = library.OnnxParserRefitter(refitter, log)
    done = parser.refit_from_bytes(model.SerializeToString())
    if missing := _missing(refitter, model, done=done):
        raise EngineError(f"the graph has no weights for the plan's {_listed(missing)}")
    if not done:
        refused = format_parser_errors(parser, log)
        raise EngineError(f"{flavour.title} does not take the weights: {refused}")
    if not refitter.refit_cuda_engine():
        raise _refusal(flavour, "cannot swap the weights", log)
    content = _written(flavour, library, engine, log, keep_refittable=options.refit)
    del parser, refitter, engine  # its memory is free for the new one
    return content, bool(_engine(flavour, runtime, log, content).refittable)


def _engine(flavour: Flavour, runtime: Any, log: Any, plan: bytes) -> Any:
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _refusal(flavour, "does not load the plan", log)
    return engine


def _refusal(flavour: Flavour, what: str, log: Any) -> EngineError:
    return EngineError(f"{flavour.title} {what}: {format_errors(log.errors)}")


def _missing(refitter: Any, model: "onnx.ModelProto", *, done: bool) -> list[str]:
    """Weights that the plan still needs; where the graph was refused, those it does not have."""
    missing = set(refitter.get_missing_weights())
    if not done:
        graph = model.graph
        given = {tensor.name for tensor in graph.initializer}
        given |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        missing |= set(refitter.get_all_weights()) - given
    return sorted(missing)


def _listed(names: list[str]) -> str:
    shown = ", ".join(name or "(one without a name)" for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _written(
    flavour: Flavour, library: ModuleType, engine: Any, log: Any, *, keep_refittable: bool
) -> bytes:
    flags = library.SerializationFlag
    config = engine.create_serialization_config()
    config.clear_flag(flags.EXCLUDE_WEIGHTS)
    # Without this flag, which came with 10.14, the next refit would find nothing to swap.
    if keep_refittable and hasattr(flags, "INCLUDE_REFIT"):
        config.set_flag(flags.INCLUDE_REFIT)
    content = engine.serialize_with_config(config)
    if content is None:
        raise _refusal(flavour, "cannot write the plan", log)
    return bytes(content)
