"""Compute a user's network in double precision, also where its code says single.

`module.double()` converts parameters and buffers. It does not reach `x.float()`, `torch.ones(...)`
in forward, or a tensor that is an ordinary attribute, and a convolution takes no two types. So
every operation is given double where it asks for single.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class DoublePrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, compute single-precision operations in double."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*tree_map(_doubled, args), **tree_map(_doubled, kwargs or {}))
        # What an operation writes into must be what the caller keeps.
        kept = args[0] if args and func._schema.is_mutable else None
        if isinstance(kept, Tensor) and kept.dtype == torch.float32 and isinstance(result, Tensor):
            return kept.copy_(result)
        return result


def _doubled(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value
