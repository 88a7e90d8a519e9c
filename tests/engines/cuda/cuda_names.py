# ruff: noqa: N815 - the names are CUDA's
"""The names and numbers of `cuda.bindings` that we use."""

import enum


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureUnjoined = 904
    cudaErrorUnknown = 999


class MemoryType(enum.IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class Capturing(enum.IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


class Copy(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Attribute(enum.IntEnum):
    cudaDevAttrTextureAlignment = 14


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


# What frees may not fail in these tests, and what a capturing thread may not call.
FREEING = frozenset(
    [
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamDestroy",
        "cudaEventDestroy",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
    ]
)
NOT_WHILE_CAPTURING = frozenset(
    [
        "cudaMalloc",
        "cudaHostAlloc",
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamSynchronize",
    ]
)
