"""The engines of `make bench`: every runtime and precision this machine has, of two networks.

The paper's network has random weights, made to measure speed with. No photos can judge it in
eight bits, where rounding grows from layer to layer: its int8 engines compute every layer in
eight bits and are timed, never used. The demo's network is trained, and its int8 engines are those
that a user would get.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pconv_deploy.assets.photos import photos
from pconv_deploy.engines.accepted_graph import read_accepted
from pconv_deploy.engines.base import Backend
from pconv_deploy.engines.folder import BuildOptions, build_engine, is_engine
from pconv_deploy.engines.golden import Allowance
from pconv_deploy.engines.int8.calibration import CalibrationFiles, read_calibration
from pconv_deploy.engines.int8.quantise import in_eight_bits
from pconv_deploy.engines.manifest import Manifest, describe, read_manifest, write_manifest
from pconv_deploy.engines.prepared_graph import prepare
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.engines.tuning import TuneOptions
from pconv_deploy.engines.windows.entry import FirstEntry, WindowEntry, add_windows
from pconv_deploy.files import atomic_folder
from pconv_deploy.parity import Precision

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
_SIDE, _CROPS = 256, 3  # of each photo, pixels and how many


def write_crops(folder: Path) -> Path:
    """Cut photos to calibrate on out of those that come with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, photo in photos().items():
        for number in range(_CROPS):
            left = number * (photo.width - _SIDE) // (_CROPS - 1)
            top = (number * 2 % _CROPS) * (photo.height - _SIDE) // (_CROPS - 1)
            box = (left, top, left + _SIDE, top + _SIDE)
            photo.crop(box).save(folder / f"{name}-{number}.png")
    return folder


def build_engines(
    graph: Path,
    crops: Path,
    output: Path,
    *,
    judged: bool,
    tune: bool,
    progress: Callable[[str], None],
) -> list[Path]:
    """Build what this machine can, saying why of the rest.

    Args:
        graph: ONNX file of `pconv-deploy export`.
        crops: photos to calibrate int8 on.
        output: folder for the engines.
        judged: whether its int8 engines are to fill photos right; without, all layers of them are
            in eight bits.
        tune: measure which form of the graph is fastest here.
        progress: is told each step.
    """
    built = []
    for backend, precision in runnable(progress):
        folder = output / f"{backend.name}-{precision}.engine"
        if precision == "int8" and not judged:
            plain = output / f"{backend.name}-fp32.engine"
            _build_unjudged(backend, graph, crops, read_manifest(plain), folder)
        else:
            options = BuildOptions(
                backend=backend.name,
                precision=precision,
                tune=TuneOptions() if tune else None,
                calibration=CalibrationFiles(photos=crops) if precision == "int8" else None,
            )
            build_engine(graph, folder, options, overwrite=True, progress=progress)
        built.append(folder)
    return built


def runnable(progress: Callable[[str], None]) -> Iterator[tuple[Backend, Precision]]:
    """Give what this machine can run; `progress` is told why not of the rest."""
    for backend in BACKENDS:
        if why := backend.why_not_run():
            progress(f"no {backend.name}: {why}")
            continue
        for precision in _PRECISIONS:
            if why := backend.why_not(precision):
                progress(f"no {backend.name} {precision}: {why}")
            else:
                yield backend, precision


def _build_unjudged(
    backend: Backend, graph: Path, crops: Path, plain: Manifest, output: Path
) -> None:
    """Put every layer into eight bits, to be timed and never used.

    plain: of the same backend's engine in single precision.
    """
    exported = read_accepted(graph)
    form = prepare(backend, exported, "int8", None, None, lambda _step: None).model
    inputs = read_calibration(CalibrationFiles(photos=crops), exported.contract).calibrate
    model = in_eight_bits(form.SerializeToString(), inputs, backend)
    with atomic_folder(output, overwrite=True, replaceable=is_engine) as folder:
        backend.build(model.SerializeToString(), exported.contract, "int8", folder)
        first = FirstEntry(
            backend=backend,
            contract=exported.contract,
            precision="int8",
            model=model,
            folder=folder,
        )
        windows = add_windows(first, Allowance(levels=255), lambda _step: None)
        files = {path.name: describe(path.read_bytes()) for path in sorted(folder.iterdir())}
        manifest = msgspec.structs.replace(
            plain,
            precision="int8",
            executed={},
            files=files,
            kept={},
            windows=windows if isinstance(windows, WindowEntry) else None,
            no_windows=windows if isinstance(windows, str) else "",
            memory=None,
            golden=None,
            engine_parity=None,
        )
        write_manifest(folder, manifest)
