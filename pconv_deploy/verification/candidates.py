"""Open what is compared (checkpoint, graph or engine) as a function that fills parity cases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from pconv_deploy.contract import (
    FILLED,
    IMAGE,
    NETWORK_FILE,
    OUTPUT,
    RAW_OUTPUT,
    GraphContract,
    Normalisation,
    Source,
)
from pconv_deploy.engines.folder import open_engine
from pconv_deploy.engines.manifest import MANIFEST
from pconv_deploy.engines.shapes import Shapes, shapes_of
from pconv_deploy.errors import EngineError, InputError, needs
from pconv_deploy.file_types import is_graph
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.graphs.run import graph_run
from pconv_deploy.images.arrays import Bytes
from pconv_deploy.parity import (
    Arithmetic,
    ParityInput,
    ParityReport,
    Run,
    check_outputs,
    graph_inputs,
)

Floats = NDArray[np.floating[Any]]
Dtype = Literal["fp64", "fp32"]
Size = tuple[int, int]  # height, width
_NEEDED = "needed a checkpoint, an exported ONNX file or an engine folder"


class Filled(NamedTuple):
    """The outputs of a candidate for one case; None for an output that it does not compute.

    raw        (H, W, 3) float, about 0..1, of every pixel
    composite  (H, W, 3) uint8, the candidate's own
    """

    raw: Floats | None
    composite: Bytes | None


Fill = Callable[[Sequence[ParityInput]], list[Filled]]


class CandidateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared.

    computed_by  runtime and device
    gives        the outputs that it computes itself
    source       the checkpoint it is or was made from
    """

    path: str
    kind: Literal["checkpoint", "graph", "engine"]
    computed_by: str
    precision: Arithmetic | Literal["fp64"]
    gives: tuple[Literal["raw_output", "composite"], ...]
    source: Source


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loaded candidate; `close` frees it.

    size               height and width if fixed
    rounded            of a checkpoint: the same in its other precision
    recorded_rounding  the largest relative error that rounding alone made when it was exported
    """

    facts: CandidateFacts
    normalisation: Normalisation
    size_multiple: int
    size: Size | None
    fill: Fill
    rounded: Fill | None = None
    recorded_rounding: float | None = None
    close: Callable[[], None] = lambda: None


def open_candidate(path: Path, dtype: Dtype = "fp64", weights_key: str | None = None) -> Candidate:
    """Load a checkpoint, an exported graph or an engine folder.

    A checkpoint is computed by the literal network in `dtype`, a graph by ONNX Runtime without
    optimisation, an engine by its runtime. `weights_key` says which weights of another project's
    checkpoint are meant.

    Raises:
        InputError: nothing is there, or nothing that can be read.
        EngineError: an engine that cannot be used here.
        MissingRuntimeError: a package it needs is not installed.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; {_NEEDED}")
    if path.is_dir() and not any((path / name).is_file() for name in (MANIFEST, NETWORK_FILE)):
        raise InputError(f"{path} is a folder without {MANIFEST}, so no engine; {_NEEDED}")
    if path.is_dir() or path.name == MANIFEST:
        return _engine_side(path if path.is_dir() else path.parent)
    if is_graph(path):
        return _graph_side(path)
    return _checkpoint_side(path, dtype, weights_key)


def _engine_side(folder: Path) -> Candidate:
    manifest, session = open_engine(folder)
    contract, built = manifest.contract, manifest.built_with
    facts = CandidateFacts(
        path=shown(folder),
        kind="engine",
        computed_by=f"{built.package} {built.version} on {built.device}",
        precision=manifest.engine.arithmetic or manifest.precision,
        gives=("raw_output",) if contract.kind == "tensor" else ("composite",),
        source=contract.source,
    )
    shapes = shapes_of(contract, manifest.engine.profiles)
    fill = _fill_by(session.run, contract, shapes)
    return _exported(facts, contract, fill, manifest.export_parity, session.close)


def _graph_side(path: Path) -> Candidate:
    exported = read_graph(path)
    contract = exported.contract
    run = graph_run(exported.model, contract, optimised=False)
    facts = CandidateFacts(
        path=shown(path),
        kind="graph",
        computed_by="ONNX Runtime, unoptimised",
        precision=contract.precision,
        gives=("raw_output",) if contract.kind == "tensor" else ("raw_output", "composite"),
        source=contract.source,
    )
    return _exported(
        facts, contract, _fill_by(run, contract, shapes_of(contract, ())), exported.parity
    )


def _exported(
    facts: CandidateFacts,
    contract: GraphContract,
    fill: Fill,
    parity: ParityReport | None,
    close: Callable[[], None] = lambda: None,
) -> Candidate:
    return Candidate(
        facts=facts,
        normalisation=contract.normalisation,
        size_multiple=contract.size_multiple,
        size=contract.size,
        fill=fill,
        recorded_rounding=parity.reference_error if parity else None,
        close=close,
    )


def _checkpoint_side(path: Path, dtype: Dtype, weights_key: str | None) -> Candidate:
    with needs("pconv-deploy[export]", what=str(path)):
        import torch

        from pconv_deploy.checkpoints.native import is_own_checkpoint, load_checkpoint
        from pconv_deploy.export.verify import literal_fill
    key = None if is_own_checkpoint(path) else weights_key  # it is meant for the other candidate
    checkpoint = load_checkpoint(path, weights_key=key)

    def fill_in(dtype: torch.dtype) -> Fill:
        literal = literal_fill(checkpoint, dtype)

        def fill(batch: Sequence[ParityInput]) -> list[Filled]:
            colours = np.stack([case.image.transpose(2, 0, 1) / 255.0 for case in batch])
            known = np.stack([case.hole_mask[None] == 0 for case in batch])  # N1HW
            try:
                raw = literal(colours, known)
            except RuntimeError as error:  # PyTorch's own, for instance for want of memory
                raise EngineError(
                    f"PyTorch failed on {list(colours.shape)} in {dtype}: {error}"
                ) from error
            return [Filled(one.transpose(1, 2, 0), None) for one in raw]

        return fill

    exact, rounded = fill_in(torch.float64), fill_in(torch.float32)
    return Candidate(
        facts=CandidateFacts(
            path=shown(path),
            kind="checkpoint",
            computed_by=f"literal network, PyTorch {version('torch')}",
            precision=dtype,
            gives=("raw_output",),
            source=checkpoint.source,
        ),
        normalisation=checkpoint.normalisation,
        size_multiple=checkpoint.model.config.size_multiple,
        size=None,
        fill=exact if dtype == "fp64" else rounded,
        rounded=rounded if dtype == "fp64" else exact,
    )


def _fill_by(run: Run, contract: GraphContract, shapes: Shapes) -> Fill:
    raw_name = OUTPUT if contract.kind == "tensor" else RAW_OUTPUT

    def fill(batch: Sequence[ParityInput]) -> list[Filled]:
        results: list[Filled] = []
        height, width = batch[0].hole_mask.shape
        while len(results) < len(batch):
            count = shapes.batch((height, width), len(batch) - len(results))
            part = list(batch[len(results) : len(results) + count])
            inputs = graph_inputs(part + part[-1:] * (count - len(part)), contract)
            outputs = run(inputs)
            check_outputs(outputs, contract, inputs[IMAGE])
            raw, composite = outputs.get(raw_name), outputs.get(FILLED)
            results += [
                Filled(
                    None if raw is None else raw[i].transpose(1, 2, 0),
                    None if composite is None else composite[i],
                )
                for i in range(len(part))
            ]
        return results

    return fill


def shown(path: Path) -> str:
    """A path as text; names need not be Unicode."""
    return str(path).encode(errors="replace").decode()
