"""Partial-convolution inpainting, from a checkpoint to an engine that fills holes.

from pconv_deploy import Inpainter

with Inpainter.load("model.engine") as inpaint:
    filled = inpaint(image, hole_mask)
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pconv_deploy.inpainter import Inpainter

__version__ = version("pconv-deploy")
__all__ = ["Inpainter", "__version__"]


def __getattr__(name: str) -> object:
    # Imported when asked for: `pconv-deploy --help` must not wait for numpy.
    if name == "Inpainter":
        from pconv_deploy.inpainter import Inpainter

        return Inpainter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
