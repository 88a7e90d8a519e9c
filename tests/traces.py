"""Traces of networks, made once a test run: torch takes seconds for each."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir


class Traces:
    """Traced graphs by name, in a folder that all workers of a run share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def get(self, name: str, trace: Callable[[], ir.Model]) -> ir.Model:
        """Return a graph of its own; trace it only if no worker has."""
        path = self._folder / f"{name}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                onnx.save(ir.serde.serialize_model(trace()), path)
        return ir.serde.deserialize_model(onnx.load(path))
