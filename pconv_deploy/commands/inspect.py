"""Collect the facts of a checkpoint, an exported graph or an engine."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.base import BackendWithOptions
from pconv_deploy.engines.integrity import check_unchanged, read_kept, unchanged_files
from pconv_deploy.engines.manifest import (
    GOLDEN,
    GRAPH,
    MANIFEST,
    QUANTISED,
    BuiltWith,
    Manifest,
    describe_parity,
    read_manifest,
    rebuild,
)
from pconv_deploy.engines.memory import MemoryUse
from pconv_deploy.engines.proof import describe_proofs
from pconv_deploy.engines.registry import BACKENDS
from pconv_deploy.engines.tuning import Tuning
from pconv_deploy.engines.windows.entry import describe_windows
from pconv_deploy.errors import EngineError, InputError, Remedy, UsageError, needs
from pconv_deploy.file_types import is_graph
from pconv_deploy.graphs.file import read_graph

_JUDGES = {
    "engine": "the engine",
    "graph": "the quantised graph (the engine itself has not run)",
}
Facts = dict[str, str | Mapping[str, str] | Remedy]


def inspect_file(path: Path, weights_key: str | None = None) -> Facts:
    """Collect the facts of a checkpoint, an exported graph or an engine folder.

    Args:
        path: of the file or folder.
        weights_key: of a checkpoint that holds several sets of weights, which are meant.

    Raises:
        UsageError: a key of anything else.
        InputError: it is none of them, or damaged.
        EngineError: a folder whose manifest cannot be read, or does not hold its backend's facts.
        MissingRuntimeError: a package that reads such a file is not installed.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if weights_key is not None and (path.is_dir() or is_graph(path)):
        raise UsageError(f"{path} is no checkpoint; leave --weights-key out")
    if path.is_dir() or path.name == MANIFEST:
        return _engine_facts(path if path.is_dir() else path.parent)
    if is_graph(path):
        return _graph_facts(path)
    if (path.parent / MANIFEST).is_file():
        raise InputError(
            f"{path} is a file of an engine",
            Remedy(purpose="See", command="inspect", arguments=(path.parent,)),
        )
    return _checkpoint_facts(path, weights_key)


def _engine_facts(folder: Path) -> Facts:
    manifest = read_manifest(folder)
    built, proofs = manifest.built_with, describe_proofs(folder, manifest)
    return {
        "what": f"engine for {manifest.backend}",
        "built with": f"{built.package} {built.version}, pconv-deploy {built.pconv_deploy}",
        "built for": f"{built.device}, {built.machine}",
        **({"processor": ", ".join(built.processor)} if built.processor else {}),
        **_gpu_facts(built),
        "computes in": _precisions(manifest),
        "form of graph": manifest.arrangement.describe() if manifest.arrangement else "its own",
        **({"tuning": _trials(manifest.tuning)} if manifest.tuning else {}),
        "windows": describe_windows(manifest.windows, manifest.no_windows),
        **({"memory": _memory(manifest.memory)} if manifest.memory else {}),
        "created": manifest.created,
        "files are": _state(folder, manifest),
        "rebuild": rebuild(manifest, folder),
        **_contract_facts(manifest.contract),
        **_backend_facts(folder, manifest),
        "files": {
            name: f"{f.size:,} bytes, sha256 {f.sha256}" for name, f in manifest.files.items()
        },
        "kept": _kept(folder, manifest),
        **({"proved itself": "; ".join(proofs)} if proofs else {}),
        "engine parity": describe_parity(manifest),
        "export parity": manifest.export_parity.describe() if manifest.export_parity else "none",
    }


def _memory(memory: MemoryUse) -> str:
    """Return what a run takes beside the engine, measured when it was built."""
    fixed, per_megapixel = (count / 2**20 for count in (memory.fixed, memory.per_pixel * 1e6))
    return f"a run takes {fixed:.0f} MiB and {per_megapixel:.0f} MiB for each megapixel"


def _kept(folder: Path, manifest: Manifest) -> dict[str, str] | str:
    """What builds the engine again and proves it elsewhere, and whether it is still there."""
    meanings = {
        GRAPH: "the graph that it was built from",
        QUANTISED: "the same, calibrated",
        GOLDEN: "a fill to be made again elsewhere",
    }
    found = {}
    for name, written in manifest.kept.items():
        state = f"{written.size:,} bytes, sha256 {written.sha256}"
        try:
            read_kept(folder, name, manifest)
        except EngineError as error:
            state = str(error)
        found[name] = f"{meanings.get(name, 'unknown')}, {state}"
    return found or "nothing: it can be built again from its graph's file alone"


def _gpu_facts(built: BuiltWith) -> Facts:
    if gpu := built.gpu:
        return {"GPU": gpu.describe()}
    return {} if built.device == "cpu" else {"GPU": "none was found where it was built"}


def _backend_facts(folder: Path, manifest: Manifest) -> Facts:
    """What the backend says of the engine; it takes what its profiles take, if it has some."""
    built = manifest.engine
    profiles = {f"profile {n}": profile.describe() for n, profile in enumerate(built.profiles)}
    facts: Facts = {}
    if profiles:
        facts["shapes"] = profiles  # batch x height x width
    backend = {one.name: one for one in BACKENDS}.get(manifest.backend)
    if isinstance(backend, BackendWithOptions):
        try:
            facts.update(
                backend.describe(built, lambda name: unchanged_files(folder, manifest).read(name))
            )
        except EngineError as error:
            raise EngineError(f"{folder}: {error}") from error
    if built.notes:
        facts["notes"] = "; ".join(built.notes)
    return facts


def _trials(tuning: Tuning) -> dict[str, str]:
    """Every form that was tried, in milliseconds, beside the best so far."""
    return {
        trial.arrangement.describe(): f"{trial.milliseconds:.1f} ms"
        + (f" against {trial.against:.1f}" if trial.against else "")
        + (", kept" if trial.kept else "")
        + (f", not taken: {trial.rejected}" if trial.rejected else "")
        for trial in tuning.trials
    }


def _precisions(manifest: Manifest) -> str:
    """As the runtime said when it was built."""
    counts = ", ".join(f"{n} convolutions in {p}" for p, n in manifest.executed.items())
    counts = counts or "as the graph it was built from is typed; the runtime was not asked"
    facts = manifest.quantisation
    if facts is None:
        return f"{manifest.precision}: {counts}"
    return (
        f"{manifest.precision}: {counts}; kept finer than int8: {', '.join(facts.kept) or 'none'}; "
        f"calibrated on {facts.calibrated_on} photos; {facts.psnr:.1f} dB in the holes of "
        f"{facts.held_back} others, filled by {_JUDGES[facts.judged_by]}"
    )


def _state(folder: Path, manifest: Manifest) -> str:
    try:
        check_unchanged(folder, manifest)
    except EngineError as error:
        return f"NOT as they were built: {error}"
    return "as they were built"


def _graph_facts(path: Path) -> Facts:
    graph = read_graph(path)
    nodes = [f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in graph.model.graph.node]
    opsets = {o.domain or "ai.onnx": str(o.version) for o in graph.model.opset_import}
    return {
        "what": "exported graph (ONNX)",
        "sha256": hashlib.sha256(graph.content).hexdigest(),
        **_contract_facts(graph.contract),
        "operator sets": opsets,
        "nodes": {op: str(nodes.count(op)) for op in sorted(set(nodes))},
        "export parity": graph.parity.describe() if graph.parity else f"none: it {graph.unproved}",
    }


def _checkpoint_facts(path: Path, weights_key: str | None) -> Facts:
    with needs("pconv-deploy[export]", what="reading checkpoints"):
        from pconv_deploy.checkpoints.native import read_header
    header = read_header(path, weights_key=weights_key)
    parameters = sum(map(math.prod, header.shapes.values()))
    return {
        "what": "checkpoint",
        "of": header.source.family.describe(),
        "sha256": header.source.sha256,
        **({"weights": header.source.weights_key} if header.source.weights_key else {}),
        "network": header.network.describe(),
        "size multiple": str(header.network.size_multiple),
        "stored values": f"{parameters:,} in {len(header.shapes)} tensors",
        "normalisation": f"mean {header.normalisation.mean}, std {header.normalisation.std}",
        "training": {key: str(value) for key, value in header.source.training.items()},
    }


def _contract_facts(contract: GraphContract) -> Facts:
    normalisation = contract.normalisation
    return {
        "graph": f"{contract.kind} level, {contract.precision}",
        "rewrites": ", ".join(contract.rewrites) or "none",
        "shapes": contract.describe_shapes(),
        "tensors": {
            spec.name: f"{spec.dtype} {spec.layout} {list(spec.shape)}: {spec.meaning}"
            for spec in (*contract.inputs, *contract.outputs)
        },
        "normalisation": f"mean {normalisation.mean}, std {normalisation.std}",
        "checkpoint": f"{contract.source.describe_weights()}, sha256 {contract.source.sha256}",
        "of": contract.source.family.describe(),
        "network": contract.source.describe_network(),
        "training": {key: str(value) for key, value in contract.source.training.items()},
    }
