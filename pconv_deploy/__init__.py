"""Partial-convolution inpainting, from a checkpoint to an engine that fills holes.

from pconv_deploy import Inpainter

with Inpainter.load("model.engine") as inpaint:
    filled = inpaint(image, hole_mask)
"""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pconv_deploy.inpainter import Inpainter

# Read by ONNX Runtime when it is first imported, by us or by NNCF, PyTorch or an evaluation worker
# behind us: without it, releases since 1.29 report their use to Microsoft. A value that the user
# has set stays.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"

__version__ = version("pconv-deploy")
__all__ = ["Inpainter", "__version__"]


def __getattr__(name: str) -> object:
    # Imported when asked for: `pconv-deploy --help` must not wait for numpy.
    if name == "Inpainter":
        from pconv_deploy.inpainter import Inpainter

        return Inpainter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
