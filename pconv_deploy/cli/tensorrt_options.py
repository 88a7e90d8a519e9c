"""The options of `build-engine` for TensorRT, by trtexec's names in kebab case."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pconv_deploy.errors import UsageError

if TYPE_CHECKING:
    import msgspec

    from pconv_deploy.engines.shapes import Shape


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel="TensorRT", **more)


def _from_to(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers: typer's own prints the range where the names need the room."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
            raise typer.BadParameter(f"found {text!r}; needed a whole number, {low} to {high}")
        return int(text)

    return parse


def _capabilities(text: str) -> str:
    if not re.fullmatch(r"\d{1,2}\.\d(,\d{1,2}\.\d)*", text):
        raise typer.BadParameter(f"found {text!r}; needed a compute capability such as 8.9")
    return text


Flag = Annotated[bool, _option()]
Shapes = Annotated[list[str] | None, _option(metavar="BxHxW")]


@dataclass(frozen=True)
class TensorRtArguments:
    """Options of `build-engine` for TensorRT; fields as in `TensorRtOptions`, but for the shapes.

    Options:
        min_shapes: Smallest shape of a profile, batch x height x width. Repeat all three options
            for more profiles. Default: --opt-shapes; without any of the three, a ladder of batches
            and sizes.
        opt_shapes: Shape to optimise a profile for.
        max_shapes: Largest shape of a profile. Default: --opt-shapes.
        workspace: Maximum workspace in MiB. Default: all GPU memory.
        timing_cache: Timing cache: read at start, updated at the end; safe to share between
            processes.
        optimization_level: Builder effort: 0 builds fastest, 5 searches longest. Default:
            TensorRT's.
        hardware_compatibility: Other GPUs that may open the engine: none, ampere+ or
            same-compute-capability. Default: none.
        version_compatible: Allow later releases of the same major version to open the engine.
        refit: Allow weights to be replaced by `pconv-deploy refit`.
        strip_weights: Build without weights; `pconv-deploy refit` adds them.
        tf32: Allow fp32 convolutions to use TF32 (10-bit mantissa).
        sparsity: Use 2:4 structured sparsity where weights have it: enable or disable (default).
        profiling_verbosity: Layer information in the engine: none, layer-names or detailed.
            Default: detailed.
        max_aux_streams: Maximum auxiliary streams. Default: TensorRT's choice.
        compute_capabilities: tensorrt-rtx only: compute capability to compile for, such as 8.9.
            Repeatable. Default: 8.0, 8.6, 8.9, 12.0 and later.
    """

    min_shapes: Shapes = None
    opt_shapes: Shapes = None
    max_shapes: Shapes = None
    workspace: Annotated[int | None, _option(metavar="MIB", parser=_from_to(1, 1 << 20))] = None
    timing_cache: Annotated[str | None, _option("--timing-cache-file", metavar="FILE")] = None
    optimization_level: Annotated[
        int | None,
        _option("--builder-optimization-level", metavar="0-5", parser=_from_to(0, 5)),
    ] = None
    hardware_compatibility: Annotated[
        Literal["none", "ampere+", "same-compute-capability"] | None,
        _option("--hardware-compatibility-level", metavar="LEVEL"),
    ] = None
    version_compatible: Flag = False
    refit: Flag = False
    strip_weights: Flag = False
    tf32: Flag = False
    sparsity: Annotated[Literal["disable", "enable"] | None, _option(metavar="MODE")] = None
    profiling_verbosity: Annotated[
        Literal["none", "layer-names", "detailed"] | None, _option(metavar="LEVEL")
    ] = None
    max_aux_streams: Annotated[int | None, _option(metavar="0-64", parser=_from_to(0, 64))] = None
    compute_capabilities: Annotated[
        list[str] | None, _option(metavar="X.Y", parser=_capabilities)
    ] = None

    def options(self, recorded: "msgspec.Struct | None") -> "msgspec.Struct | None":
        """Return the builder's options; what is not given is as `recorded`."""
        given = asdict(self)
        shapes = [given.pop(name) for name in ("min_shapes", "opt_shapes", "max_shapes")]
        return tensorrt_options(shapes, given, recorded)


def tensorrt_options(
    shapes: Sequence[list[str] | None],
    given: dict[str, Any],
    recorded: "msgspec.Struct | None" = None,
) -> "msgspec.Struct | None":
    """Options of the command as those of the builder; None where there are none.

    Args:
        shapes: the values of --min-shapes, --opt-shapes and --max-shapes.
        given: the other options by the names of `TensorRtOptions`; None and False are not given.
        recorded: what holds where nothing is given.

    Raises:
        UsageError: values out of range, or profiles that are incomplete or contradict themselves.
    """
    import msgspec

    from pconv_deploy.engines.registry import TensorRtOptions
    from pconv_deploy.engines.shapes import require_distinct

    names = ("--min-shapes", "--opt-shapes", "--max-shapes")
    low, best, high = (
        [_shape(name, text) for text in texts or ()]
        for name, texts in zip(names, shapes, strict=True)
    )
    if any(len(some) not in (0, len(best)) for some in (low, high)):
        raise UsageError(
            f"found {len(low)} --min-shapes, {len(best)} --opt-shapes, {len(high)} --max-shapes; "
            "needed --opt-shapes for every profile, the others for every profile or none"
        )
    # 0 is a choice, and equal to False.
    chosen = {
        n: value for n, value in given.items() if value not in ([], None) and value is not False
    }
    if listed := chosen.get("compute_capabilities"):
        chosen["compute_capabilities"] = list(dict.fromkeys(",".join(listed).split(",")))
    if not best and not chosen:
        return recorded
    profiles = [
        {"min": least, "opt": middle, "max": most}
        for least, middle, most in zip(low or best, best, high or best, strict=True)
    ]
    before = msgspec.to_builtins(recorded) if recorded else {}
    if best:
        chosen["profiles"] = profiles
    try:
        # Made by its constructor, it would not be checked.
        options = msgspec.convert({**before, **chosen}, TensorRtOptions)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at `$")[0]  # a place in our own notation
        raise UsageError(f"TensorRT cannot build with these options: {what}") from error
    if best:
        require_distinct(options.profiles)
    return options


def _shape(option: str, text: str) -> "Shape":
    """Read batch x height x width, such as 8x512x512."""
    from pconv_deploy.engines.shapes import MOST_BATCH, MOST_SIDE

    if not re.fullmatch(r"\d{1,5}(x\d{1,5}){2}", text):
        raise UsageError(f"found {option} {text}; needed batch x height x width, such as 8x512x512")
    batch, height, width = map(int, text.split("x"))
    if not (1 <= batch <= MOST_BATCH and 1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise UsageError(
            f"found {option} {text}; needed a batch from 1 to {MOST_BATCH} and sides from 1 to "
            f"{MOST_SIDE}"
        )
    return batch, height, width
