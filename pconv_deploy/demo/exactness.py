"""An engine beside the literal network in float64, without the exported graph in between."""

import contextlib
from pathlib import Path

import numpy as np

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.contract import HOLE_MASK, IMAGE, RAW_OUTPUT
from pconv_deploy.engines.manifest import Manifest
from pconv_deploy.engines.prepared_graph import prepare_again
from pconv_deploy.engines.registry import backend_named
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.export.verify import literal_fill
from pconv_deploy.files import scratch_folder
from pconv_deploy.graphs.file import read_graph, with_raw_output
from pconv_deploy.parity import Arrays, ParityReport, compare_runs


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
