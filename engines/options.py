"""The options of a build, and checks of what a backend cannot build."""

from dataclasses import dataclass

import msgspec

from pconv_deploy.engines.base import Backend
from pconv_deploy.engines.int8.calibration import MIN_PHOTOS, CalibrationFiles
from pconv_deploy.engines.tuning import TuneOptions
from pconv_deploy.errors import UsageError
from pconv_deploy.parity import PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What kind of engine to build.

    backend      a name of `registry.BACKENDS`
    precision    of the convolutions; None takes the graph's own
    calibration  photos and holes for int8, which needs them
    tune         measure which form of the graph is fastest here; None takes the backend's usual
    windows      add a second entry, which computes only the windows that holes need
    backend_options  of the backend's own, such as `TensorRtOptions`; None takes its defaults
    """

    backend: str = "onnxruntime"
    precision: Precision | None = None
    calibration: CalibrationFiles | None = None
    tune: TuneOptions | None = None
    windows: bool = True
    backend_options: msgspec.Struct | None = None


def refuse_precision(
    backend: Backend, precision: Precision, options: BuildOptions, *, quantised: bool
) -> None:
    """Refuse precisions and options that the backend cannot build.

    Args:
        backend: is to build it.
        precision: of the engine.
        options: as they were asked for.
        quantised: the graph comes quantised already.

    Raises:
        UsageError: the backend has no such precision here, or options contradict it.
    """
    if why := backend.why_not(precision):
        possible = [p for p in PRECISIONS if backend.why_not(p) is None]
        raise UsageError(
            f"the {backend.name} backend cannot build {precision} engines here: {why}. "
            f"It can build: {', '.join(possible)}"
        )
    if precision == "int8" and options.calibration is None and not quantised:
        raise UsageError(
            "int8 engines are calibrated on photos like those they will fill; "
            f"give a folder of at least {MIN_PHOTOS} with --calibration-photos"
        )
    if precision != "int8" and options.calibration is not None:
        raise UsageError(f"only int8 engines are calibrated; this one computes in {precision}")
