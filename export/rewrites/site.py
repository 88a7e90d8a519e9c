"""What a rewrite says of a place where it could have fired."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Site:
    """One place. refused  why the rewrite left it alone; None: it fired."""

    place: str
    refused: str | None = None


# Changes the model where its formula holds, and says where it did and did not.
Apply = Callable[[ir.Model], Sequence[Site]]
