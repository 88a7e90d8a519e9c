"""A graph whose convolutions compute in eight bits, those that bear it.

NNCF finds the ranges and puts pairs of QuantizeLinear and DequantizeLinear before the
convolutions, which ONNX Runtime, OpenVINO and TensorRT turn into arithmetic of eight bits.
Everything else stays in single precision in the graph: the masks, the renormalisation, its ends.
OpenVINO on a processor with AMX computes features in int8 only if their codes are around zero.
TensorRT has signed codes around zero only: half of them are never used behind a
ReLU.

Behind a window that sees one known pixel of many, features are larger by that factor; a layer
that reads them needs more than 256 levels. Layers are given back their single precision, the
worst first, until the held-back photos look as they did.
"""

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import FILLED, HOLE_MASK, OUTPUT, GraphContract
from pconv_deploy.engines.base import Backend, Traits
from pconv_deploy.engines.int8.calibration import CalibrationSet
from pconv_deploy.engines.int8.graph import (
    feature_convolutions,
    with_layers_exact,
    with_results_rounded,
    with_signed_codes,
)
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.engines.telemetry import without_telemetry
from pconv_deploy.errors import GraphError, MissingRuntimeError, ParityError
from pconv_deploy.files import scratch_folder
from pconv_deploy.graphs.file import inlined
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import TOLERANCES, Arrays, Run

if TYPE_CHECKING:
    import onnx

_RANKED_BY = 4  # photos: the order of the layers needs no more
_MOST_KEPT = 0.5  # of the layers: with fewer in eight bits the engine is not what was asked for
_MOST_NAMED = 5  # unusable photos
_BEST_PSNR = 99.0  # of equal images


class Quantisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an int8 engine came about, and how near it is to the graph.

    calibrated_on, held_back, unusable  photos
    passed_over                         the first few unusable ones, each with its reason
    psnr, worst_psnr                    dB in the holes of the held-back photos, against the
                                        graph's composite: of all together, of the worst one
    kept                                layers left out of int8, by their weights' names
    judged_by                           what filled the photos: the "engine" itself or, where the
                                        machine cannot run it, the quantised "graph", by ONNX
                                        Runtime node by node
    """

    calibrated_on: int
    held_back: int
    unusable: int
    psnr: float
    worst_psnr: float
    kept: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    judged_by: Literal["engine", "graph"] = "engine"


def quantise(
    content: bytes,
    contract: GraphContract,
    photos: CalibrationSet,
    reference: Run,
    backend: Backend,
    progress: Callable[[str], None],
) -> tuple["onnx.ModelProto", Quantisation]:
    """Quantise an exported graph for a backend.

    Args:
        content: of the ONNX file.
        contract: the graph's.
        photos: to calibrate on, and to judge by.
        reference: the graph as it was exported.
        backend: is to run it, and is asked for every try, if this machine can.
        progress: is told each step.

    Returns:
        The graph without functions, and what was measured.

    Raises:
        MissingRuntimeError: NNCF is not installed.
        ParityError: with half of the layers in single precision it still differs too much.
        GraphError: it has no convolutions to quantise, or NNCF cannot.
    """
    progress(f"calibrating on {len(photos.calibrate)} photos")
    model, layers, quantised = _in_eight_bits(content, photos.calibrate, backend)
    wanted = [reference(inputs) for inputs in photos.held_back]

    def psnr(kept: Sequence[str], count: int | None = None) -> tuple[float, float]:
        tried = with_layers_exact(quantised, model, kept)
        with _tried(backend, tried, contract) as run:
            return _hole_psnr(
                [(i, w, run(i)) for i, w in zip(photos.held_back[:count], wanted, strict=False)],
                contract,
            )

    needed = TOLERANCES["int8"].hole_psnr or 0.0
    kept: list[str] = []
    found, worst = psnr(kept)
    if found < needed:
        progress(f"{found:.1f} dB; looking for the layers that lose most")
        alone = {name: psnr([n for n in layers if n != name], _RANKED_BY)[0] for name in layers}
        for name in sorted(layers, key=alone.__getitem__)[: int(_MOST_KEPT * len(layers))]:
            kept.append(name)
            found, worst = psnr(kept)
            progress(f"{found:.1f} dB with {layers[name]} in single precision")
            if found >= needed:
                break
    names = tuple(layers[name].removesuffix(".weight") for name in kept)
    if not found >= needed:
        raise ParityError(
            f"in int8 the holes of {len(wanted)} photos come out at {found:.1f} dB of the graph, "
            f"needed {needed:.0f}, with {', '.join(names) or 'no layer'} in single precision. "
            "Calibrate on photos like those it will fill, or build another precision"
        )
    facts = Quantisation(
        calibrated_on=len(photos.calibrate),
        held_back=len(photos.held_back),
        unusable=len(photos.unusable),
        passed_over=photos.unusable[:_MOST_NAMED],
        psnr=round(found, 2),
        worst_psnr=round(worst, 2),
        kept=names,
        judged_by="graph" if backend.why_not_run() else "engine",
    )
    return with_layers_exact(quantised, model, kept), facts


def in_eight_bits(content: bytes, photos: Sequence[Arrays], backend: Backend) -> "onnx.ModelProto":
    """Quantise every layer of a graph for a backend, and judge nothing.

    Raises:
        MissingRuntimeError, GraphError: as `quantise`.
    """
    return _in_eight_bits(content, photos, backend)[2]


def _in_eight_bits(
    content: bytes, photos: Sequence[Arrays], backend: Backend
) -> tuple["onnx.ModelProto", dict[str, str], "onnx.ModelProto"]:
    """The graph without functions, its layers, and the same with all of them in eight bits."""
    import onnx

    model = onnx.load_from_string(inlined(content))
    layers = feature_convolutions(model)
    if not layers:
        raise GraphError("this graph has no convolutions with fixed weights to compute in int8")
    quantised = _with_ranges(model, layers, photos, backend.traits)
    if backend.traits.typed:
        quantised = with_signed_codes(quantised)
    if backend.traits.rounds_results:
        quantised = with_results_rounded(quantised, layers, photos)
    return model, layers, quantised


@contextlib.contextmanager
def _tried(backend: Backend, model: "onnx.ModelProto", contract: GraphContract) -> Iterator[Run]:
    """Build an engine in passing, and run it; or the graph, where there is nothing to run it."""
    if backend.why_not_run():
        # Unfused, it rounds where it says so and computes exactly in between.
        yield graph_run(model, contract, optimised=False)
        return
    with scratch_folder() as work:
        backend.build(model.SerializeToString(), contract, "int8", work)
        session = backend.open(files_just_built(work), "int8", RunOptions())
        with contextlib.closing(session):
            yield session.run


def _with_ranges(
    model: "onnx.ModelProto",
    layers: dict[str, str],
    photos: Sequence[Arrays],
    traits: Traits,
) -> "onnx.ModelProto":
    try:
        with without_telemetry():
            import nncf
            from nncf.quantization import advanced_parameters as advanced
            from nncf.quantization import range_estimator
    except ImportError as error:
        raise MissingRuntimeError(
            "int8 engines need NNCF: pip install 'pconv-deploy[int8]'"
        ) from error
    # nncf.set_log_level would set the handlers of others, too.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    others = [node.name for node in model.graph.node if node.name not in layers]
    # Processors without VNNI overflow where weights use all eight bits.
    overflow_fix = advanced.OverflowFix.DISABLE if traits.typed else advanced.OverflowFix.ENABLE
    around_zero = advanced.QuantizationParameters(mode=advanced.QuantizationMode.SYMMETRIC)
    try:
        with without_telemetry(), contextlib.redirect_stdout(io.StringIO()):  # it draws bars
            quantised: onnx.ModelProto = nncf.quantize(
                model,
                nncf.Dataset([dict(inputs) for inputs in photos]),
                subset_size=len(photos),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=others, validate=False),
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    overflow_fix=overflow_fix,
                    activations_quantization_params=around_zero if traits.symmetric_codes else None,
                    # The extremes of the median photo: one odd photo stretches no range.
                    activations_range_estimator_params=(
                        range_estimator.RangeEstimatorParametersSet.MEDIAN_MINMAX
                    ),
                ),
            )
    # NNCF's exceptions share no base class but Exception.
    except Exception as error:
        raise GraphError(f"NNCF cannot quantise this graph: {error}") from error
    return quantised


def _hole_psnr(
    runs: Sequence[tuple[Arrays, Arrays, Arrays]], contract: GraphContract
) -> tuple[float, float]:
    """PSNR in the holes, dB: over all pixels of all images, and of the worst image."""
    errors = [_squared_errors(*run, contract) for run in runs]
    pooled = float(np.concatenate(errors).mean())
    worst = max((float(one.mean()) for one in errors if one.size), default=math.nan)
    return _decibel(pooled), _decibel(worst)


def _squared_errors(
    inputs: Arrays, wanted: Arrays, found: Arrays, contract: GraphContract
) -> NDArray[np.float64]:
    """Of the hole's values, as shares of the full range."""
    name, scale = (OUTPUT, 1.0) if contract.kind == "tensor" else (FILLED, 255.0)
    hole = inputs[HOLE_MASK] != 0
    images = [np.asarray(side[name], np.float64) / scale for side in (wanted, found)]
    if contract.kind == "tensor":
        hole = hole[:, 0]
        images = [np.moveaxis(image, 1, -1).clip(0, 1) for image in images]
    difference: NDArray[Any] = images[0][hole] - images[1][hole]
    return difference.ravel() ** 2


def _decibel(squared_error: float) -> float:
    return min(_BEST_PSNR, -10 * float(np.log10(max(squared_error, 1e-12))))
