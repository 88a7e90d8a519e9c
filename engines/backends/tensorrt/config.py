"""Our options as TensorRT's builder config, each checked to exist in the installed release."""

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pconv_deploy.engines.backends.tensorrt.library import TENSORRT_RTX, Flavour
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.errors import UsageError

_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_VERBOSITY = {"none": "NONE", "layer-names": "LAYER_NAMES_ONLY", "detailed": "DETAILED"}


def configure(flavour: Flavour, library: ModuleType, config: Any, options: TensorRtOptions) -> None:
    """Set everything but profiles, timing cache and progress.

    Raises:
        UsageError: this release, or this flavour, has no such option.
    """

    def needed(owner: Any, name: str, option: str) -> Any:
        if not hasattr(owner, name):
            raise UsageError(f"{flavour.title} {library.__version__} has no {option}")
        return getattr(owner, name)

    def set_flag(name: str, wanted: bool, option: str) -> None:
        if wanted:
            config.set_flag(needed(library.BuilderFlag, name, option))
        elif hasattr(library.BuilderFlag, name):
            config.clear_flag(getattr(library.BuilderFlag, name))

    refuse_foreign(flavour, options)
    set_flag("TF32", options.tf32, "--tf32")
    set_flag("REFIT", options.refit, "--refit")
    set_flag("STRIP_PLAN", options.strip_weights, "--strip-weights")
    set_flag("VERSION_COMPATIBLE", options.version_compatible, "--version-compatible")
    set_flag("SPARSE_WEIGHTS", options.sparsity == "enable", "--sparsity")
    # TensorRT for RTX, which alone has this flag, asks for it where streams are captured.
    captured = hasattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION")
    set_flag("REQUIRE_USER_ALLOCATION", captured, "CUDA graphs")
    verbosity = needed(library, "ProfilingVerbosity", "--profiling-verbosity")
    config.profiling_verbosity = getattr(verbosity, _VERBOSITY[options.profiling_verbosity])
    if options.workspace is not None:
        pool = needed(library.MemoryPoolType, "WORKSPACE", "--workspace")
        config.set_memory_pool_limit(pool, options.workspace << 20)
    if options.optimization_level is not None:
        needed(config, "builder_optimization_level", "--builder-optimization-level")
        config.builder_optimization_level = options.optimization_level
    if options.max_aux_streams is not None:
        needed(config, "max_aux_streams", "--max-aux-streams")
        config.max_aux_streams = options.max_aux_streams
    if options.hardware_compatibility != "none":
        option = f"--hardware-compatibility-level {options.hardware_compatibility}"
        levels = needed(library, "HardwareCompatibilityLevel", option)
        level = needed(levels, _HARDWARE[options.hardware_compatibility], option)
        config.hardware_compatibility_level = level
    _target(flavour, library, config, options.compute_capabilities)


def refuse_foreign(flavour: Flavour, options: TensorRtOptions) -> None:
    """Each flavour has its own way to reach several kinds of GPU; RTX has less to choose.

    Raises:
        UsageError: an option that this flavour does not have.
    """
    if flavour != TENSORRT_RTX:
        if options.compute_capabilities:
            raise UsageError(
                f"{flavour.title} compiles for the GPU it runs on; --compute-capabilities goes "
                f"with --backend {TENSORRT_RTX.backend}"
            )
        return
    lacks = None
    if options.hardware_compatibility != "none":
        lacks = "--hardware-compatibility-level; say for which GPUs with --compute-capabilities"
    elif options.version_compatible:
        lacks = "--version-compatible: its engines open in the release that built them alone"
    elif options.timing_cache:
        lacks = "--timing-cache-file: it measures nothing when it builds"
    if lacks:
        raise UsageError(f"{flavour.title} has no {lacks}")


def _target(
    flavour: Flavour, library: ModuleType, config: Any, capabilities: tuple[str, ...]
) -> None:
    if not capabilities:
        return
    kinds = getattr(library, "ComputeCapability", None)
    names = [f"SM{capability.replace('.', '')}" for capability in capabilities]
    missing = [c for c, name in zip(capabilities, names, strict=True) if not hasattr(kinds, name)]
    if missing:
        raise _no_such_target(f"{flavour.title} {library.__version__}", missing, dir(kinds))
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        # It says no without raising, and would compile for another GPU.
        if not config.set_compute_capability(getattr(kinds, name), index):
            raise UsageError(f"{flavour.title} refuses compute capability {capabilities[index]}")


def _no_such_target(release: str, missing: Sequence[str], kinds: Sequence[str]) -> UsageError:
    """kinds: the names in the module's enumeration, such as SM89; none where it has none."""
    known = (re.fullmatch(r"SM(\d+)(\d)", kind) for kind in kinds)
    there = sorted((int(found[1]), int(found[2])) for found in known if found)
    if not there:
        return UsageError(
            f"the Python module of {release} cannot be told which GPUs to compile for. Leave "
            "--compute-capabilities out: it then compiles for those that --help names"
        )
    names = ", ".join(f"{major}.{minor}" for major, minor in there)
    return UsageError(
        f"found --compute-capabilities {','.join(missing)}; {release} compiles for {names}"
    )
