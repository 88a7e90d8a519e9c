"""DLPack: how array libraries hand each other memory without a copy.

The structures are those of its specification (dmlc.github.io/dlpack), before versions were added:
every producer still offers them.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
_CODES = {"i": 0, "u": 1, "f": 2}
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


class _Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Described:
    """What a capsule says of its memory.

    dtype    None: a type that NumPy does not have
    strides  in elements; None: C order
    """

    address: int
    device: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    strides: tuple[int, ...] | None


def describe(capsule: Any) -> Described:
    """Read a capsule without consuming it: its memory stays its producer's."""
    pointer = _get_pointer(capsule, _NAME)
    tensor = ctypes.cast(pointer, ctypes.POINTER(_Managed)).contents.tensor
    kind = {code: letter for letter, code in _CODES.items()}.get(tensor.code)
    plain = kind is not None and tensor.lanes == 1 and tensor.bits in (8, 16, 32, 64)
    return Described(
        address=(tensor.data or 0) + tensor.byte_offset,
        device=tensor.device_id,
        shape=tuple(tensor.shape[: tensor.ndim]),
        dtype=np.dtype(f"{kind}{tensor.bits // 8}") if plain else None,
        strides=tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None,
    )


def capsule(
    owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int]
) -> Any:
    """Offer memory in C order; `owner` is kept alive until the consumer is done with it."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(
        data=address,
        device_type=device[0],
        device_id=device[1],
        ndim=len(shape),
        code=_CODES[dtype.kind],
        bits=dtype.itemsize * 8,
        lanes=1,
        shape=ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
    )
    managed = _Managed(tensor=tensor, deleter=ctypes.cast(_deleter, ctypes.c_void_p))
    _offered[ctypes.addressof(managed)] = (managed, sizes, owner)
    return _new(ctypes.addressof(managed), _NAME, _destructor)


_offered: dict[int, tuple[_Managed, Any, Any]] = {}
_python = ctypes.pythonapi
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", _python)
)
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)
# A capsule that is being destroyed must not be referred to as an object again.
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _python)
)


def _delete(managed: int) -> None:
    _offered.pop(managed, None)


def _destroy(dying: int) -> None:
    if _is_valid(dying, _NAME):  # else a consumer took it, renamed it, and calls the deleter
        _delete(_dying_pointer(dying, _NAME))


# Consumers may call it from threads that do not hold Python's lock: a C function takes it.
_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)
_destructor = _Destructor(_destroy)
