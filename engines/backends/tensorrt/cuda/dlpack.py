"""DLPack: how array libraries hand each other memory without a copy.

The structures are those of its specification (dmlc.github.io/dlpack), before versions were added:
every producer still offers them.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

CUDA, CUDA_MANAGED = 2, 13
_KINDS = {0: "i", 1: "u", 2: "f"}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; null: C order
        ("byte_offset", ctypes.c_uint64),
    )


_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class View:
    """Somebody's array on the GPU.

    strides  in bytes; None: C order
    dtype    or words for a type that NumPy does not have
    stream   on which it is being written; None: it is written, or the reader need not care
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | str
    strides: tuple[int, ...] | None
    readonly: bool = False
    stream: int | None = None


def describe(capsule: Any) -> View:
    """Read a capsule without consuming it: its memory stays its producer's."""
    tensor = _tensor(capsule)
    kind = _KINDS.get(tensor.code)
    plain = kind is not None and tensor.lanes == 1 and tensor.bits in (8, 16, 32, 64)
    strides = tensor.strides[: tensor.ndim] if tensor.strides else None
    return View(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[: tensor.ndim]),
        dtype=np.dtype(f"{kind}{tensor.bits // 8}") if plain else "a type NumPy does not have",
        strides=tuple(n * tensor.bits // 8 for n in strides) if strides else None,
    )


@dataclass(frozen=True)
class _Lease:
    """Memory as NumPy takes it without looking at it; lives as long as NumPy's array of it."""

    owner: Any
    __array_interface__: dict[str, Any]


def capsule(
    owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int]
) -> Any:
    """Offer memory in C order; `owner` is kept alive until the consumer is done with it.

    It is a capsule of NumPy's, told where its memory really lies. What frees it is thereby a C
    function: consumers call it from any thread, while an exception is on its way, and when the
    interpreter has ended, none of which a function in Python would survive.
    """
    interface = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3}
    offered = np.asarray(_Lease(owner, interface)).__dlpack__()
    tensor = _tensor(offered)
    tensor.device_type, tensor.device_id = device
    return offered


def _tensor(capsule: Any) -> _Tensor:
    """The first member of what a capsule points to."""
    pointer = ctypes.cast(_get_pointer(capsule, _NAME), ctypes.POINTER(_Tensor))
    return pointer.contents
