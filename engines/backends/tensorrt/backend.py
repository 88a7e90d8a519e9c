"""NVIDIA TensorRT, and TensorRT for RTX, which has the same interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import msgspec

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX, Flavour, load
from pconv_deploy.engines.backends.tensorrt.options import PlanFacts, TensorRtOptions
from pconv_deploy.engines.base import (
    EngineFiles,
    Gpu,
    Progress,
    RunOptions,
    Runtime,
    Session,
    silent,
)
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.errors import MissingRuntimeError
from pconv_deploy.parity import Precision

PLAN = "engine.plan"
LAYERS = "layers.json"
# What TensorRT for RTX compiles for unless told otherwise: these, and what came after the last.
_RTX_USUAL, _RTX_FROM = ("8.0", "8.6", "8.9"), (12, 0)
_AMPERE = (8, 0)
_USUAL = TensorRtOptions()
_STRIPPED = "its weights were left out; `pconv-deploy refit` puts them in"
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
    device: str = "cuda"
    rounds_results: bool = False
    opens_after_fork: bool = False  # CUDA does not
    typed: bool = True
    why_finer: str = ""

    @property
    def name(self) -> str:
        return self.flavour.backend

    def runtime(self) -> Runtime:
        version: str = self._import().__version__
        return Runtime(package=self.flavour.module, version=version, gpu=_gpu())

    def usual_form(self, precision: Precision) -> Arrangement:
        # It has no transposed convolution in bf16. Which is fastest has not been measured.
        return Arrangement(upsampling=("enlarged",) if precision == "bf16" else ("transposed",))

    def why_not(self, precision: Precision) -> str | None:
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

    def why_not_open(self, built_with: Runtime, plan: PlanFacts | None) -> str | None:
        installed = self.runtime()
        options = plan.options if plan else _USUAL
        # One of TensorRT for RTX is for its own release, whatever was asked for.
        compatible = options.version_compatible and self.flavour != TENSORRT_RTX
        if why := _another_release(installed, built_with, compatible):
            return why
        if options.strip_weights:
            return _STRIPPED
        if installed.gpu is None:
            return None  # `why_not_run` says so, whatever the engine
        found = installed.gpu.compute_capability
        if self.flavour == TENSORRT_RTX:
            return _not_targeted(found, options.compute_capabilities)
        built = built_with.gpu
        if built is None:
            return _NOWHERE
        if options.hardware_compatibility == "ampere+" and _numbers(found) >= _AMPERE:
            return None
        if built.compute_capability != found:
            return (
                f"it was built for compute capability {built.compute_capability}, this is {found}"
            )
        if built.name != installed.gpu.name and options.hardware_compatibility == "none":
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
        progress: Progress = silent,
    ) -> PlanFacts:
        from pconv_deploy.engines.backends.tensorrt.builder import PlanRequest, build_plan
        from pconv_deploy.engines.backends.tensorrt.inspection import complaints

        request = PlanRequest(graph=graph, contract=contract, options=self.options)
        built = build_plan(self.flavour, self._import(), request, self._why_not_here(), progress)
        (folder / PLAN).write_bytes(built.plan)
        (folder / LAYERS).write_bytes(msgspec.json.encode(built.evidence))
        layers = built.facts.layers
        notes = tuple(complaints(layers, precision)) if layers else ()
        if self.flavour != TENSORRT_RTX and _gpu() is None:
            notes += (_NOWHERE,)
        for note in notes:
            progress(f"note: {note}")
        return msgspec.structs.replace(built.facts, notes=notes)

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

    def executed(
        self,
        files: EngineFiles,
        contract: GraphContract,  # noqa: ARG002
        precision: Precision,  # noqa: ARG002
    ) -> Mapping[Precision, int]:
        from pconv_deploy.engines.backends.tensorrt.builder import Evidence

        return msgspec.json.decode(files.read(LAYERS), type=Evidence).executed()

    def _why_not_here(self) -> str | None:
        """Why nothing that is built with these options is loaded on this machine, if so."""
        from pconv_deploy.engines.cuda.devices import current_gpu, why_no_gpu

        if (why := why_no_gpu()) or self.flavour != TENSORRT_RTX:
            return why
        return _not_targeted(current_gpu().compute_capability, self.options.compute_capabilities)

    def _import(self) -> ModuleType:
        return load(self.flavour)


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
