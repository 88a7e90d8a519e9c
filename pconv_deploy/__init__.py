"""Partial-convolution inpainting, from a checkpoint to an engine that fills holes.

from pconv_deploy import Inpainter

with Inpainter.load("model.engine") as inpaint:
    filled = inpaint(image, hole_mask)

`build_engine` makes the engine, `verify` compares it; docs/api.md describes all names.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pconv_deploy.commands.build import build_engine
    from pconv_deploy.engines.folder import open_engine
    from pconv_deploy.engines.options import BuildOptions
    from pconv_deploy.engines.sessions import RunOptions
    from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
    from pconv_deploy.inpainter import Inpainter
    from pconv_deploy.regions import RegionOptions
    from pconv_deploy.verification.run import verify_files as verify

# Read by ONNX Runtime when it is first imported, by us or by NNCF, PyTorch or an evaluation worker
# behind us: without it, releases since 1.29 report their use to Microsoft. A value that the user
# has set stays.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"

__version__ = version("pconv-deploy")
__all__ = [
    "BuildOptions",
    "ExportOptions",
    "Inpainter",
    "RegionOptions",
    "RunOptions",
    "__version__",
    "build_engine",
    "export_checkpoint",
    "open_engine",
    "verify",
]

# Imported when asked for: `pconv-deploy --help` must not wait for numpy, nor inference for torch.
_PLACES = {
    "BuildOptions": ("engines.options", "BuildOptions", "onnxruntime"),
    "ExportOptions": ("export.checkpoint_to_onnx", "ExportOptions", "export"),
    "Inpainter": ("inpainter", "Inpainter", ""),
    "RegionOptions": ("regions", "RegionOptions", ""),
    "RunOptions": ("engines.base", "RunOptions", ""),
    "build_engine": ("commands.build", "build_engine", "onnxruntime"),
    "export_checkpoint": ("export.checkpoint_to_onnx", "export_checkpoint", "export"),
    "open_engine": ("engines.folder", "open_engine", ""),
    "verify": ("verification.run", "verify_files", "onnxruntime"),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, found, extra = _PLACES[name]
    from pconv_deploy.errors import needs

    with needs(f"pconv-deploy[{extra}]" if extra else "pconv-deploy", what=f"pconv_deploy.{name}"):
        return getattr(import_module(f"pconv_deploy.{module}"), found)
