"""Export a user's own network, given as Python code, to a verified ONNX file."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pconv_deploy.checkpoints.foreign.weights import list_names, text_of_name
from pconv_deploy.contract import MAX_LEVELS, Family, Normalisation, Source, UserModule
from pconv_deploy.errors import ModuleError, PConvError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import (
    ExportOptions,
    ExportResult,
    refuse_existing,
    verified_graph,
    write_graph,
)
from pconv_deploy.export.modules.factory import (
    ANY_FAILURE,
    describe_error,
    importable_from_here,
    location_of,
    make_module,
)
from pconv_deploy.export.modules.factory_name import parse_factory
from pconv_deploy.export.modules.partial_convolutions import WithOperators, with_operators
from pconv_deploy.export.modules.trial import (
    CalledModule,
    find_interface,
    run_on_holes,
    runs_in_double,
)
from pconv_deploy.export.modules.weights import load_weights, require_finite, sha256_of_state
from pconv_deploy.export.rewrites.pipeline import select_rewrites
from pconv_deploy.export.target import ExportTarget
from pconv_deploy.export.trace_errors import UnfollowedSizesError

_SHOWN = 64  # pixels of a side that show what masks a layer is given
FAMILY = Family(name="module", mask_convention=None, mask_scaling=None)


@dataclass(frozen=True, kw_only=True)
class ModuleRequest:
    """A network given as Python code.

    factory        "package.module:name" of a callable that returns a torch.nn.Module, or of one
    weights        its state dict, safetensors or of torch.save; None: it comes with its weights
    normalisation  of the images it was trained on
    size_multiple  of which heights and widths must be multiples; None: found by trial
    """

    factory: str
    weights: Path | None = None
    normalisation: Normalisation = field(default_factory=Normalisation)
    size_multiple: int | None = None


def export_module(
    request: ModuleRequest,
    output: Path | str,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    explain: bool = False,
    progress: Callable[[str], None] = lambda _step: None,
) -> ExportResult:
    """Make the module, which runs the user's code, and export it as `export_checkpoint` does.

    Its layers may be anything that torch.export follows; those that compute a partial convolution
    are known by that. The graph is compared with the module itself, untouched, in double precision.

    Raises:
        UsageError, ParityError, OutputError: as `export_checkpoint`.
        ModuleError: the module cannot be made, run or followed.
        CheckpointError: the weights cannot be read or do not fit.
    """
    output, options = Path(output), options or ExportOptions()
    if request.weights and output.resolve() == request.weights.resolve():
        raise UsageError(f"{output} holds the weights; choose another name for the graph")
    if request.size_multiple is not None and not 1 <= request.size_multiple <= 1 << MAX_LEVELS:
        raise UsageError(
            f"found size multiple {request.size_multiple}; needed 1 to {1 << MAX_LEVELS}"
        )
    refuse_existing(output, overwrite)
    select_rewrites(options.level, options.without)  # before anything is read
    parse_factory(request.factory)
    with importable_from_here(), _errors_of_user_code(request.factory):
        target = _target(request, options, progress)
        while True:
            try:
                model, result = verified_graph(
                    target, output, options, explain=explain, progress=progress
                )
                break
            except UnfollowedSizesError as error:
                target = _with_larger_multiple(target, error, request, progress)
        write_graph(model, output, overwrite=overwrite)
        return result


@contextmanager
def _errors_of_user_code(factory: str) -> Iterator[None]:
    """Turn an unexpected exception raised in the user's code into a ModuleError."""
    try:
        yield
    except PConvError:
        raise
    except ANY_FAILURE as error:
        if not location_of(error):
            raise  # a bug of ours
        raise ModuleError(f"the module of {factory} raised {describe_error(error)}") from error


def _with_larger_multiple(
    target: ExportTarget,
    error: UnfollowedSizesError,
    request: ModuleRequest,
    progress: Callable[[str], None],
) -> ExportTarget:
    """Return the target with a larger size multiple, or raise the error if the user chose it."""
    multiple = target.size_multiple
    larger = multiple * (error.growth or 1)
    if error.growth is None:
        raise ModuleError(f"{error}. Pass --size HxW, and --batch N too") from error
    if request.size_multiple or larger > 1 << MAX_LEVELS:
        raise ModuleError(
            f"{error}, multiples being {multiple}. Pass --size-multiple {larger}, or more; or fix "
            "--size HxW"
        ) from error
    progress(f"{error}, multiples being {multiple}; trying multiples of {larger}")
    return replace(target, size_multiple=larger)


def _target(
    request: ModuleRequest, options: ExportOptions, progress: Callable[[str], None]
) -> ExportTarget:
    progress(f"making {request.factory}")
    network = make_module(request.factory)
    if training := [name for name, part in network.named_modules() if name and part.training]:
        progress(
            "its own train() or eval() leaves parts in training mode after eval(): "
            f"{list_names(training)}; batch norms and dropouts there compute as in training"
        )
    weights = request.weights
    loaded = load_weights(network, weights, options.weights_key) if weights else None
    require_finite(network, request.factory)
    size = options.size
    mask_channels, multiple = find_interface(network, request.size_multiple, size, progress)
    shown_size = size or (multiple * math.ceil(_SHOWN / multiple),) * 2
    made = with_operators(network, lambda layers: run_on_holes(layers, mask_channels, shown_size))
    reference = CalledModule(network, mask_channels)
    name = text_of_name(weights) if weights else request.factory
    return ExportTarget(
        traced=CalledModule(made.network, mask_channels),
        reference=reference,
        reference_name="the module itself",
        normalisation=request.normalisation,
        size_multiple=multiple,
        source=Source(
            file=name,
            sha256=loaded.sha256 if loaded else sha256_of_state(network),
            weights_key=loaded.key if loaded else None,
            module=UserModule(
                factory=request.factory,
                mask_channels=mask_channels,
                partial_convolutions=made.partial_convolutions,
            ),
            family=FAMILY,
        ),
        in_double=runs_in_double(reference, *(size or (multiple, 2 * multiple))),
        notes=_notes(made),
    )


def _notes(made: WithOperators) -> tuple[str, ...]:
    if not made.lookalikes:
        return ()
    layer, difference = next(iter(made.lookalikes.items()))
    more = f", and {len(made.lookalikes) - 1} more," if len(made.lookalikes) > 1 else ""
    return (
        f"{layer}{more} looks like NVIDIA's PartialConv2d, but computes something else: "
        f"{difference}. It is exported as the operators that it is made of; the rewrites of masks "
        "do nothing there",
    )
