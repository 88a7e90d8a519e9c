"""NVIDIA TensorRT, and TensorRT for RTX, which has the same interface."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import msgspec

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.config import refuse_foreign
from pconv_deploy.engines.backends.tensorrt.layers import LAYERS, described_layers, read_layers
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX, Flavour, load
from pconv_deploy.engines.backends.tensorrt.options import (
    PlanDetails,
    TensorRtOptions,
    changed_options,
)
from pconv_deploy.engines.base import Built, Gpu, Layer, Progress, Runtime, Traits, ignore_progress
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.sessions import EngineFiles, RunOptions, Session
from pconv_deploy.errors import MissingRuntimeError
from pconv_deploy.parity import Precision

PLAN = "engine.plan"
# What TensorRT for RTX compiles for unless told otherwise: these, and what came after the last.
_RTX_USUAL, _RTX_FROM = ("8.0", "8.6", "8.9"), (12, 0)
_AMPERE = (8, 0)
_USUAL = TensorRtOptions()
_STRIPPED = "its weights were left out; a refit puts them in"
_NOWHERE = (
    "a plan is for one kind of GPU, and it was built where there was none: no machine opens it. "
    "Build it on the GPU that will run it"
)


@dataclass(frozen=True)
class TensorRtBackend:
    """Compiles the graph, whose types decide the precision, to a plan for one kind of GPU.

    engine.plan is TensorRT's own file and nothing else: trtexec opens it. layers.json is what the
    engine's layers compute in.
    """

    flavour: Flavour = TENSORRT
    options: TensorRtOptions = _USUAL
    options_type: type[msgspec.Struct] = TensorRtOptions

    @property
    def name(self) -> str:
        return self.flavour.backend

    @property
    def traits(self) -> Traits:
        return Traits(
            device="cuda",
            extra=self.flavour.backend,
            typed=True,
            symmetric_codes=True,
            portable=False,
            same_gpu=self.flavour == TENSORRT,
            repeatable=False,
        )

    def runtime(self) -> Runtime:
        version: str = self._import().__version__
        return Runtime(package=self.flavour.module, version=version, gpu=_gpu())

    def usual_form(self, precision: Precision) -> Arrangement:
        # It has no transposed convolution in bf16. Which is fastest has not been measured.
        return Arrangement(upsampling=("enlarged",) if precision == "bf16" else ("transposed",))

    def with_options(self, options: msgspec.Struct) -> "TensorRtBackend":
        assert isinstance(options, TensorRtOptions)
        refuse_foreign(self.flavour, options)
        return replace(self, options=options)

    def recorded_options(self, built: Built) -> TensorRtOptions:
        """Return them without a timing cache whose folder is not on this machine."""
        options = PlanDetails.of(built.details).options
        if options.timing_cache and not Path(options.timing_cache).parent.is_dir():
            return msgspec.structs.replace(options, timing_cache=None)
        return options

    def changed_options(self, options: msgspec.Struct) -> Mapping[str, object]:
        assert isinstance(options, TensorRtOptions)
        return changed_options(options)

    def describe(
        self, built: Built, read: Callable[[str], bytes]
    ) -> Mapping[str, str | Mapping[str, str]]:
        details = PlanDetails.of(built.details)
        chosen = changed_options(msgspec.structs.replace(details.options, profiles=()))
        return {
            "options": _in_one_line(chosen) or "TensorRT's defaults",
            "build took": f"{details.build_seconds:.0f} s",
            "layers": described_layers(read),
        }

    def why_not(self, precision: Precision) -> str | None:
        if self.options.tf32 and precision in ("fp16", "bf16"):
            return "--tf32 lets the convolutions of fp32 engines round, and those that int8 leaves"
        try:
            self._import()
        except MissingRuntimeError as error:
            return str(error)
        if precision == "int8" and self.flavour == TENSORRT_RTX:
            return "NVIDIA lists matrix products alone for it, no convolutions"
        gpu = _gpu()
        if precision == "bf16" and gpu and _numbers(gpu.compute_capability) < _AMPERE:
            return f"{gpu.name} (compute capability {gpu.compute_capability}) has no bf16"
        return None

    def why_not_run(self) -> str | None:
        return _STRIPPED if self.options.strip_weights else self._why_not_here()

    def why_not_open(self, built_with: Runtime, built: Built) -> str | None:
        installed = self.runtime()
        options = PlanDetails.of(built.details).options
        # One of TensorRT for RTX is for its own release, whatever was asked for.
        compatible = built.later_releases and self.flavour != TENSORRT_RTX
        if why := _another_release(installed, built_with, compatible):
            return why
        if built.weights_missing:
            return _STRIPPED
        if installed.gpu is None:
            return None  # `why_not_run` says so, whatever the engine
        found = installed.gpu.compute_capability
        if self.flavour == TENSORRT_RTX:
            return _not_targeted(found, options.compute_capabilities)
        there = built_with.gpu
        if there is None:
            return _NOWHERE
        if options.hardware_compatibility == "ampere+" and _numbers(found) >= _AMPERE:
            return None
        if there.compute_capability != found:
            return (
                f"it was built for compute capability {there.compute_capability}, this is {found}"
            )
        if there.name != installed.gpu.name and options.hardware_compatibility == "none":
            # TensorRT itself takes it, and warns that it may be slow or fail.
            return (
                "a plan is for one model of GPU; --hardware-compatibility-level "
                f"same-compute-capability makes it one for all of {found}"
            )
        return None

    def why_unproved(self, built_with: Runtime) -> str | None:
        # What `why_not_open` lets pass is a version compatible plan, or one for several GPUs.
        installed = self.runtime()
        if installed.version != built_with.version:
            return "its kernels ran under another release"
        here, there = installed.gpu, built_with.gpu
        if here and there and here.name != there.name:
            return "its kernels ran on another GPU"
        return None

    def build(
        self,
        graph: bytes,
        contract: GraphContract,
        precision: Precision,
        folder: Path,
        progress: Progress = ignore_progress,
    ) -> Built:
        from pconv_deploy.engines.backends.tensorrt.builder import PlanRequest, build_plan

        request = PlanRequest(graph=graph, contract=contract, options=self.options)
        plan = build_plan(self.flavour, self._import(), request, self._why_not_here(), progress)
        (folder / PLAN).write_bytes(plan.content)
        (folder / LAYERS).write_bytes(msgspec.json.encode(plan.layers))
        notes = (_NOWHERE,) if self.flavour != TENSORRT_RTX and _gpu() is None else ()
        for note in notes:
            progress(f"note: {note}")
        details = PlanDetails(options=self.options, build_seconds=plan.build_seconds)
        return Built(
            profiles=plan.profiles,
            arithmetic="tf32" if self.options.tf32 and precision == "fp32" else None,
            weights_missing=self.options.strip_weights,
            later_releases=self.options.version_compatible,
            notes=notes,
            details=details.to_json(),
        )

    def open(
        self,
        files: EngineFiles,
        precision: Precision,  # noqa: ARG002  it is the plan's own
        options: RunOptions,
    ) -> Session:
        from pconv_deploy.engines.backends.tensorrt.session import TensorRtSession

        return TensorRtSession(
            self._import(),
            files.read(PLAN),
            options,
            host_code=self.options.version_compatible,
        )

    def layers(
        self,
        files: EngineFiles,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002
    ) -> Sequence[Layer]:
        counts = read_layers(files.read).graph
        return [Layer(found) for found, count in counts.items() for _ in range(count)]

    def why_not_refit(self, built: Built) -> str | None:
        options = PlanDetails.of(built.details).options
        if options.refit or options.strip_weights:
            return None
        return "was built without --refit: its weights cannot be swapped"

    def only_own_weights(self, built: Built) -> bool:
        # Stripped alone, TensorRT has optimised for the very weights it left out.
        return not PlanDetails.of(built.details).options.refit

    def with_weights(self, built: Built) -> Built:
        return _recorded_with_weights(built, refit=True)

    def refit(
        self, files: EngineFiles, graph: bytes, built: Built
    ) -> tuple[dict[str, bytes], Built]:
        from pconv_deploy.engines.backends.tensorrt.refit_plan import refit_plan

        options = PlanDetails.of(built.details).options
        found = refit_plan(self.flavour, self._import(), files.read(PLAN), graph, options)
        return {PLAN: found[0]}, _recorded_with_weights(built, refit=found[1])

    def _why_not_here(self) -> str | None:
        """Why nothing that is built with these options is loaded on this machine, if so."""
        from pconv_deploy.engines.cuda.devices import current_gpu, why_no_gpu

        if (why := why_no_gpu()) or self.flavour != TENSORRT_RTX:
            return why
        return _not_targeted(current_gpu().compute_capability, self.options.compute_capabilities)

    def _import(self) -> ModuleType:
        return load(self.flavour)


def _recorded_with_weights(built: Built, *, refit: bool) -> Built:
    """What is recorded of a plan with its weights inside; `refit`: they can be swapped again."""
    details = PlanDetails.of(built.details)
    options = msgspec.structs.replace(
        details.options, strip_weights=False, refit=details.options.refit and refit
    )
    changed = msgspec.structs.replace(details, options=options)
    return msgspec.structs.replace(built, weights_missing=False, details=changed.to_json())


def _gpu() -> Gpu | None:
    from pconv_deploy.engines.cuda.devices import gpu_here

    return gpu_here()


def _another_release(installed: Runtime, built_with: Runtime, compatible: bool) -> str | None:
    if installed.package != built_with.package:
        return "they do not read each other's plans"
    if not compatible:
        same = installed.version == built_with.version
        return None if same else "a plan is for the release that built it"
    here, there = _numbers(installed.version), _numbers(built_with.version)
    if here[0] == there[0] and here >= there:
        return None
    return "a version compatible plan is for the same major release, that or a later one"


def _not_targeted(found: str, targets: tuple[str, ...]) -> str | None:
    """Why TensorRT for RTX does not run on one compute capability what it compiles for others."""
    if found in (targets or _RTX_USUAL) or (not targets and _numbers(found) >= _RTX_FROM):
        return None
    if targets:
        return f"a plan for compute capability {', '.join(targets)} does not run on {found}"
    usual = f"{', '.join(_RTX_USUAL)}, {'.'.join(map(str, _RTX_FROM))} and later"
    return f"without --compute-capabilities a plan is for {usual}, this is {found}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _in_one_line(options: Mapping[str, object]) -> str:
    return ", ".join(
        name
        if value is True
        else f"{name} {' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in options.items()
    )
