"""What a runtime is given for an exported graph: one of its equal forms, in eight bits if asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pconv_deploy.engines.acceptance import why_rejected
from pconv_deploy.engines.base import Backend, Built
from pconv_deploy.engines.int8.calibration import CalibrationFiles, CalibrationSet, read_calibration
from pconv_deploy.engines.int8.quantise import Quantisation, in_eight_bits, quantise
from pconv_deploy.engines.lowering.forms import Arrangement
from pconv_deploy.engines.tuning import TuneOptions, Tuner, Tuning
from pconv_deploy.errors import MissingRuntimeError, ParityError, UsageError
from pconv_deploy.graphs.file import ExportedGraph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.parity import Precision

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class PreparedGraph:
    """The graph a runtime gets, and how it came about."""

    model: "onnx.ModelProto"
    arrangement: Arrangement | None  # None: a graph exported at -O3, which version 0.2 still had
    tuning: Tuning | None = None
    quantisation: Quantisation | None = None


def prepare(
    backend: Backend,
    exported: ExportedGraph,
    precision: Precision,
    tune: TuneOptions | None,
    calibration: CalibrationFiles | None,
    progress: Callable[[str], None],
) -> PreparedGraph:
    """Choose among the equal forms of a graph, by measurement if asked, and quantise it.

    A form that differs too much from the graph is not chosen. For int8, each form is tried as
    quantised on one photo; the fastest one is judged and, if it fails, the one before it.

    Raises:
        MissingRuntimeError: what edits graphs is not installed.
        UsageError: a graph is to be tuned for a backend that cannot run on this machine.
        InputError, GraphError, ParityError: as `read_calibration` and `quantise`.
    """
    contract = exported.contract
    photos = None
    if calibration is not None:
        progress("reading the calibration photos")
        photos = read_calibration(calibration, contract)
    prepared = _chosen_form(backend, exported, precision, tune, photos, progress)
    if photos is None:
        return prepared
    return _quantised(backend, exported, prepared, photos, progress)


def _quantised(
    backend: Backend,
    exported: ExportedGraph,
    prepared: PreparedGraph,
    photos: CalibrationSet,
    progress: Callable[[str], None],
) -> PreparedGraph:
    """In eight bits: the fastest form of those tried that keeps the photos as they were."""
    reference = graph_run(exported.model, exported.contract, optimised=True)
    model, form, tuning = prepared.model, prepared.arrangement, prepared.tuning
    while True:
        content = model.SerializeToString()
        try:
            model, facts = quantise(
                content, exported.contract, photos, reference, backend, progress
            )
        except ParityError as error:
            tuning = tuning.without_best(str(error)) if tuning else None
            if tuning is None:
                raise
            form = tuning.best
            progress(f"this form loses too much in int8; trying {form.describe()}")
            model = prepare_again(backend, exported, "int8", form)
        else:
            return PreparedGraph(model, form, tuning, facts)


def prepare_again(
    backend: Backend,
    exported: ExportedGraph,
    precision: Precision,
    arrangement: Arrangement | None,
) -> "onnx.ModelProto":
    """Bring a graph into the form in which another like it was prepared, and its precision.

    arrangement: what was recorded of that one; None: it was exported at -O3, which version 0.2
        still had.

    Raises:
        MissingRuntimeError: what edits graphs is not installed.
        CheckpointError: a weight is too large for the precision.
    """
    with _editing_graphs(backend):
        from pconv_deploy.engines.lowering.arrangement import arranged
    model = _typed(backend, exported, precision)
    return arranged(model, arrangement, exported.contract) if arrangement else model


@contextmanager
def _editing_graphs(backend: Backend) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        extra = backend.traits.extra
        raise MissingRuntimeError(
            f"building engines needs {error.name}: pip install 'pconv-deploy[{extra}]'"
        ) from error


def _chosen_form(
    backend: Backend,
    exported: ExportedGraph,
    precision: Precision,
    tune: TuneOptions | None,
    photos: CalibrationSet | None,
    progress: Callable[[str], None],
) -> PreparedGraph:
    with _editing_graphs(backend):
        from pconv_deploy.engines.lowering.arrangement import arranged
    model, contract = _typed(backend, exported, precision), exported.contract
    if tune is None:
        usual = backend.usual_form(precision)
        return PreparedGraph(arranged(model, usual, contract), usual)
    if why := backend.why_not_run():
        raise UsageError(f"--tune measures what is fastest, but no engine runs here: {why}")
    return _tuned(backend, exported, precision, tune, photos, progress)


def _tuned(
    backend: Backend,
    exported: ExportedGraph,
    precision: Precision,
    tune: TuneOptions,
    photos: CalibrationSet | None,
    progress: Callable[[str], None],
) -> PreparedGraph:
    from pconv_deploy.engines.lowering.arrangement import arranged, upsampling_sites

    model, contract = _typed(backend, exported, precision), exported.contract

    @lru_cache(maxsize=2)  # the best one takes part in every comparison
    def candidate(arrangement: Arrangement) -> "onnx.ModelProto":
        form = arranged(model, arrangement, contract)
        if photos is None:
            return form
        return in_eight_bits(form.SerializeToString(), photos.calibrate[:1], backend)

    def rejected(form: "onnx.ModelProto", folder: Path, built: Built) -> str | None:
        return why_rejected(backend, folder, exported, form, precision, built)

    tuner = Tuner(
        model=candidate,
        sites=upsampling_sites(model),
        backend=backend,
        contract=contract,
        precision=precision,
        options=tune,
        progress=progress,
        why_rejected=rejected if photos is None else lambda *_: None,
    )
    tuning = tuner.tune()
    return PreparedGraph(arranged(model, tuning.best, contract), tuning.best, tuning)


def _typed(backend: Backend, exported: ExportedGraph, precision: Precision) -> "onnx.ModelProto":
    """Let a graph's types say what it is to be computed in, for a backend that goes by them."""
    model, contract = exported.model, exported.contract
    if not backend.traits.typed or precision == contract.precision:
        return model
    if contract.precision != "fp32":
        raise UsageError(
            f"this graph was exported in {contract.precision}, and its types decide what it is "
            f"computed in; for {precision}, export it in fp32"
        )
    if precision == "int8":
        return model  # it is quantised later
    from pconv_deploy.graphs.half_precision import in_half_precision

    return in_half_precision(model, precision)
