"""The options of a TensorRT engine, and what is recorded of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import EngineError

ComputeCapability = Annotated[str, Meta(pattern=r"^\d{1,2}\.\d$")]


# What the command line calls these fields; the others have the same name there.
_NAMES = {
    "timing_cache": "timing_cache_file",
    "optimization_level": "builder_optimization_level",
    "hardware_compatibility": "hardware_compatibility_level",
}


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


def changed_options(options: TensorRtOptions) -> dict[str, object]:
    """Return the options that are not the defaults, as `Remedy.options` has them."""
    usual = TensorRtOptions()
    changed: dict[str, object] = {}
    for name in ("min", "opt", "max") if options.profiles else ():
        shapes = (getattr(profile, name) for profile in options.profiles)
        changed[f"{name}_shapes"] = tuple("x".join(map(str, shape)) for shape in shapes)
    for field in usual.__struct_fields__:
        value = getattr(options, field)
        if field != "profiles" and value != getattr(usual, field):
            changed[_NAMES.get(field, field)] = value
    return changed


class PlanDetails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest records of a TensorRT plan, beside what it records of any engine."""

    options: TensorRtOptions
    build_seconds: float

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "PlanDetails":
        """Read what `to_json` gave.

        Raises:
            EngineError: it is something else.
        """
        try:
            return msgspec.convert(details, cls)
        except msgspec.ValidationError as error:
            raise EngineError(
                f"the manifest does not say how TensorRT built the engine: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, as a manifest that was read has them."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found
