"""Calls of CUDA, every return code of which is looked at."""

import importlib
from dataclasses import dataclass
from typing import Any

from pconv_deploy.errors import EngineError, MissingRuntimeError

_RUNTIME, _DRIVER = "cuda.bindings.runtime", "cuda.bindings.driver"
_MIB = 1 << 20
_OTHER_CONTEXT = (
    ". A stream or an array of another CUDA context than the engine's, or of a destroyed one? "
    "docs/gpu-runtime.md says how to share a context"
)


@dataclass(frozen=True)
class Cuda:
    """CUDA as cuda-python offers it: functions that return (status, results...).

    runtime  the module cuda.bindings.runtime, whose functions are named cuda...
    driver   the module cuda.bindings.driver, whose functions are named cu...
    """

    runtime: Any
    driver: Any

    @classmethod
    def load(cls) -> "Cuda":
        """Import it; this touches no GPU yet.

        Raises:
            MissingRuntimeError: cuda-bindings is not installed, or does not load.
        """
        try:
            return cls(importlib.import_module(_RUNTIME), importlib.import_module(_DRIVER))
        except ImportError as error:
            raise MissingRuntimeError(
                f"running on a GPU needs cuda-bindings, which does not load ({error}): "
                "pip install 'cuda-bindings>=12.9,<14'"
            ) from error

    def attempt(self, function: str, *arguments: Any) -> tuple[Any, Any]:
        """Call and return (status, result); the caller looks at the status."""
        of_runtime = function.startswith("cuda")
        module = self.runtime if of_runtime else self.driver
        status, *results = getattr(module, function)(*arguments)
        if not of_runtime:
            status = self.runtime.cudaError_t(int(status))  # both number their errors alike
        return status, results[0] if len(results) == 1 else tuple(results)

    def call(self, function: str, *arguments: Any) -> Any:
        """Call and return the result, the only one as such, several as a tuple.

        Raises:
            EngineError: CUDA reports a failure; the message has its name and words for it.
        """
        status, result = self.attempt(function, *arguments)
        if status != self.runtime.cudaError_t.cudaSuccess:
            other = self.is_error(status, "cudaErrorInvalidResourceHandle")
            raise EngineError(
                f"{function} failed: {self.describe(status)}{_OTHER_CONTEXT if other else ''}"
            )
        return result

    def is_error(self, status: Any, name: str) -> bool:
        """Whether a status is CUDA's error of this name, such as "cudaErrorNoDevice"."""
        return bool(status == getattr(self.runtime.cudaError_t, name))

    def describe(self, status: Any) -> str:
        """CUDA's name of a status, and what it says of it."""
        _, name = self.attempt("cudaGetErrorName", status)
        _, words = self.attempt("cudaGetErrorString", status)
        return f"{_text(name)} ({_text(words)})"

    def allocate(self, function: str, size: int, *arguments: Any) -> int:
        """Call a function that allocates `size` bytes and return their address.

        Raises:
            EngineError: there is no room; the message says what was needed and what is free.
        """
        status, address = self.attempt(function, size, *arguments)
        if self.is_error(status, "cudaErrorMemoryAllocation"):
            free, total = self.call("cudaMemGetInfo")
            raise EngineError(
                f"out of memory: {function} needed {in_mib(size)}; the GPU has {in_mib(free)} "
                f"free of {in_mib(total)}. Run fewer streams, smaller batches or sizes, or close "
                "what else runs on this GPU"
            )
        if status != self.runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"{function} of {in_mib(size)} failed: {self.describe(status)}")
        return int(address)


def in_mib(size: int) -> str:
    """Bytes in words for people."""
    return f"{size / _MIB:,.1f} MiB"


def _text(words: Any) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else str(words)
