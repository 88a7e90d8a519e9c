"""The demo's engines: its own, every other runtime and precision of processors, exactness."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pconv_deploy.benchmark.suite_engines import write_crops
from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.contract import HOLE_MASK, IMAGE, RAW_OUTPUT
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.engines.int8.calibration import CalibrationFiles
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.errors import EngineError, InputError, MissingRuntimeError, ParityError
from pconv_deploy.export.verify import literal_fill
from pconv_deploy.files import scratch_folder
from pconv_deploy.graphs.file import read_graph, with_raw_output
from pconv_deploy.parity import Arrays, ParityReport, Precision, compare_runs

Kind = tuple[str, Precision]  # backend, precision
MAIN: Kind = ("onnxruntime", "fp32")
BESIDE: tuple[Kind, ...] = (
    ("onnxruntime", "bf16"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def contender(kind: Kind) -> str:
    """The name `bench` gives an engine of this kind."""
    return ", ".join(kind)


def build_beside(
    graph: Path, folder: Path, kinds: Sequence[Kind], progress: Callable[[str], None]
) -> tuple[dict[str, tuple[Path, Manifest]], dict[str, str]]:
    """Build what this machine can, and say why of the rest.

    Args:
        graph: ONNX file of `pconv-deploy export`.
        folder: for the engines, and the crops of the photos that int8 is calibrated on.
        kinds: what to build.
        progress: is told each step.

    Returns:
        Engines with their manifests, and reasons, both by contender.

    Raises:
        OutputError, UsageError: `folder` cannot be written, or is another process's.
    """
    made, left_out = {}, {}
    crops = None
    for kind in kinds:
        backend, precision = kind
        name, output = contender(kind), folder / f"{backend}-{precision}.engine"
        if why := _why_not(kind):
            left_out[name] = why
            continue
        calibration = None
        if precision == "int8":
            crops = crops or write_crops(folder / "calibration")
            calibration = CalibrationFiles(photos=crops)
        options = BuildOptions(backend=backend, precision=precision, calibration=calibration)
        told = partial(_prefixed, f"build {name}: ", progress)
        try:
            manifest = build_engine(graph, output, options, overwrite=True, progress=told)
        # Of a network of one's own, int8 may lose too much: the others are shown all the same.
        except (EngineError, InputError, MissingRuntimeError, ParityError) as error:
            left_out[name] = str(error)
        else:
            made[name] = (output, manifest)
    return made, left_out


def _prefixed(prefix: str, progress: Callable[[str], None], step: str) -> None:
    progress(prefix + step)


def _why_not(kind: Kind) -> str | None:
    backend = backend_named(kind[0])
    try:
        backend.runtime()
    except MissingRuntimeError as error:
        return str(error)
    return backend.why_not_run() or backend.why_not(kind[1])


def compare_with_float64(checkpoint: Path, graph: Path, manifest: Manifest) -> ParityReport:
    """Fill the usual cases with the literal network in float64, and with an engine in fp32.

    An engine shows its composite alone. So another one is built like it in passing, from the same
    form of the graph with the network's own output shown, as the acceptance of engines does.

    Args:
        checkpoint: that `graph` was exported from.
        graph: that the engine was built from.
        manifest: the engine's.

    Raises:
        PConvError: as `load_checkpoint`, `read_graph` and `build_engine`.
    """
    exported, backend = read_graph(graph), backend_named(manifest.backend)
    fill = literal_fill(load_checkpoint(checkpoint))

    def in_float64(inputs: Arrays) -> Arrays:
        colours = np.moveaxis(inputs[IMAGE], -1, 1) / 255.0  # NHWC bytes -> NCHW, 0..1
        return {RAW_OUTPUT: fill(colours, inputs[HOLE_MASK][:, None] == 0)}

    model = with_raw_output(prepare_again(backend, exported, "fp32", manifest.arrangement))
    with scratch_folder() as work:
        backend.build(model.SerializeToString(), exported.contract, "fp32", work)
        session = backend.open(files_just_built(work), "fp32", RunOptions())
        with contextlib.closing(session):
            return compare_runs(
                in_float64,
                session.run,
                exported.contract,
                ("the literal network, PyTorch float64", f"{manifest.backend} engine, fp32"),
                exported.parity.reference_error if exported.parity else None,
            )
