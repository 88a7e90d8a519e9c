"""What a TensorRT engine is built for and how, and what is recorded of it."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_BATCH, MOST_SIDE = 1024, 1 << 14
Shape = tuple[
    Annotated[int, Meta(ge=1, le=MOST_BATCH)],
    Annotated[int, Meta(ge=1, le=MOST_SIDE)],
    Annotated[int, Meta(ge=1, le=MOST_SIDE)],
]
ComputeCapability = Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")]


# What the command line calls the options, but for the profiles.
_WORDS = {
    "workspace": "--workspace",
    "timing_cache": "--timing-cache-file",
    "optimization_level": "--builder-optimization-level",
    "hardware_compatibility": "--hardware-compatibility-level",
    "version_compatible": "--version-compatible",
    "refit": "--refit",
    "strip_weights": "--strip-weights",
    "tf32": "--tf32",
    "sparsity": "--sparsity",
    "profiling_verbosity": "--profiling-verbosity",
    "max_aux_streams": "--max-aux-streams",
    "compute_capabilities": "--compute-capabilities",
}


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shapes that one optimization profile takes, each (batch, height, width).

    TensorRT is tuned for `opt` and works from `min` to `max`.
    """

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        for low, best, high in zip(self.min, self.opt, self.max, strict=True):
            if not low <= best <= high:
                shapes = ("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))
                raise ValueError(
                    "found min {}, opt {}, max {}; needed min <= opt <= max in batch, height and "
                    "width".format(*shapes)
                )

    def takes(self, shape: tuple[int, int, int]) -> bool:
        """Whether (batch, height, width) lies within it."""
        return all(low <= n <= high for low, n, high in zip(self.min, shape, self.max, strict=True))

    def describe(self) -> str:
        """One line for people: `1x256x256 .. 8x512x512, tuned for 1x512x512`."""
        low, best, high = ("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))
        return low if low == high else f"{low} .. {high}, tuned for {best}"


class TensorRtOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What trtexec's options of the same names do.

    profiles                  none: a small ladder of sizes and batches
    workspace                 MiB that the builder's choices may take; None: all there is
    timing_cache              file that is read, and written with what was learnt
    optimization_level        0 builds fastest, 5 searches longest; None: TensorRT's own
    hardware_compatibility    which other GPUs may open it
    version_compatible        whether later TensorRT releases may open it
    refit                     weights can be replaced, see `pconv-deploy refit`
    strip_weights             no weights inside: they come by a refit
    tf32                      fp32 convolutions may round their inputs to 10 bits of mantissa
    sparsity                  whether weights that are sparse 2:4 may be computed as such
    profiling_verbosity       how much the engine tells of its layers
    max_aux_streams           None: TensorRT's own choice
    compute_capabilities      GPUs to compile for; TensorRT for RTX alone; none: its usual ones
    """

    profiles: tuple[Profile, ...] = ()
    workspace: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    timing_cache: str | None = None
    optimization_level: Annotated[int, Meta(ge=0, le=5)] | None = None
    hardware_compatibility: Literal["none", "ampere+", "same-compute-capability"] = "none"
    version_compatible: bool = False
    refit: bool = False
    strip_weights: bool = False
    tf32: bool = False
    sparsity: Literal["disable", "enable"] = "disable"
    profiling_verbosity: Literal["none", "layer-names", "detailed"] = "detailed"
    max_aux_streams: Annotated[int, Meta(ge=0, le=64)] | None = None
    compute_capabilities: tuple[ComputeCapability, ...] = ()


def words(options: TensorRtOptions) -> list[str]:
    """The command line's words for these options; those that are usual need none."""
    usual = TensorRtOptions()
    command: list[str] = []
    for profile in options.profiles:
        for name in ("min", "opt", "max"):
            shape = "x".join(map(str, getattr(profile, name)))
            command += [f"--{name}-shapes", shape]
    for field, option in _WORDS.items():
        value = getattr(options, field)
        if value == getattr(usual, field):
            continue
        if value is True:
            command += [option]
        else:
            values = value if isinstance(value, tuple) else (value,)
            command += [word for one in values for word in (option, str(one))]
    return command


class Layers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What TensorRT's engine inspector tells of the layers.

    count         of all
    reformats     layers between others that only change how numbers are laid out
    convolutions  by the precision they compute in; "unknown" counts nodes that do not tell
    work          shares of the convolutions' multiply-adds, likewise; empty: not known of all
    """

    count: int
    reformats: int
    convolutions: Mapping[str, int]
    work: Mapping[str, float] = {}


class PlanFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded of a TensorRT plan.

    options, profiles  as it was built with
    layers             None: it was not loaded, as where there is no GPU that it is for
    notes              what is not as it should be in them, or in the plan, for people
    """

    options: TensorRtOptions
    profiles: tuple[Profile, ...]
    build_seconds: float
    layers: Layers | None = None
    notes: tuple[str, ...] = ()
