"""Running a TensorRT plan: from several threads, with arrays of the host or of the GPU."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from pconv_deploy.contract import HOLE_MASK
from pconv_deploy.engines.backends.tensorrt.cuda.arrays import DeviceArray, check_fits, view
from pconv_deploy.engines.backends.tensorrt.cuda.dlpack import View
from pconv_deploy.engines.backends.tensorrt.cuda.streams import (
    LEGACY_STREAM,
    on_device,
    refuse_capturing,
    stream_handle,
)
from pconv_deploy.engines.backends.tensorrt.plan import Plan, Tensor
from pconv_deploy.engines.backends.tensorrt.worker import Binding, RunRequest, Worker
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.cuda.devices import current_gpu
from pconv_deploy.engines.sessions import DeviceArrays, RunOptions
from pconv_deploy.engines.shapes import choose
from pconv_deploy.errors import EngineError, InputError
from pconv_deploy.parity import Arrays


class TensorRtSession:
    """A loaded plan. Calls may come from several threads; `options.streams` run at once.

    It lives on the GPU, and in the CUDA context, that are current where it is made.
    """

    def __init__(
        self,
        library: ModuleType,
        plan: bytes,
        options: RunOptions | None = None,
        *,
        graphs: bool = True,
        host_code: bool = False,
    ) -> None:
        """Load a plan and set aside what its runs need.

        Args:
            library: the module `tensorrt` or `tensorrt_rtx`.
            plan: what its builder wrote.
            options: how many runs at once.
            graphs: capture CUDA graphs; otherwise everything is executed directly.
            host_code: let a version-compatible plan run the code it brings along.

        Raises:
            EngineError: no GPU, not enough of its memory, or a plan that is not for it.
            MissingRuntimeError: cuda-bindings is not installed.
        """
        current_gpu()  # TensorRT itself, without a GPU, may take the process down with it
        self._cuda = Cuda.load()
        self._device = self._cuda.call("cudaGetDevice")
        self._free = threading.Condition()
        self._closed = False
        self._plan = Plan(library, plan, self._cuda, host_code=host_code)
        with contextlib.ExitStack() as made:
            made.callback(self._plan.close)
            self._workers: list[Worker] = []
            for _ in range((options or RunOptions()).streams):
                self._workers.append(Worker(self._cuda, self._plan, graphs=graphs))
                made.callback(self._workers[-1].close)
            made.pop_all()
        # In turn, so that as many warm-up runs as there are workers reach all of them.
        self._idle = deque(self._workers)

    @property
    def runs_by_graph(self) -> int:
        """How many runs so far were launched as a CUDA graph; the others were executed directly."""
        return sum(worker.runs_by_graph for worker in self._workers)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute host arrays from host arrays, by the names of the contract.

        Raises:
            EngineError: the runtime failed, the shape is outside of every profile (the message
                lists them), or the session is closed.
            InputError: an array of another type or shape.
        """
        self._require_names(inputs)
        request = self._request(np.shape(inputs[HOLE_MASK]))
        for name, tensor in self._plan.inputs.items():
            _require_host(inputs[name], tensor, request)
        with self._worker() as worker:
            return worker.run(request, inputs)

    def run_on_device(
        self, inputs: DeviceArrays, stream: Any = None, outputs: DeviceArrays | None = None
    ) -> DeviceArrays:
        """Compute arrays on the GPU; nothing is copied but inputs that are host arrays.

        Args:
            inputs: by the names of the contract, each on this GPU and contiguous, offering
                `__cuda_array_interface__` or DLPack; or a NumPy array.
            stream: the caller's. The run follows what it has been given, and it goes on when the
                run is done; nobody waits here, unless an input is a host array: then for what
                the worker was given before. Until the run is done the caller leaves inputs and
                outputs alone. None follows the legacy default stream and waits until it is done.
            outputs: arrays to write into. Fastest is to give the same ones again and again: a
                call without a stream captures a CUDA graph of its batch, size and addresses,
                which calls with a stream use as well. None makes new ones.

        Returns:
            `outputs`, or new arrays that offer both protocols and own their memory.

        Raises:
            EngineError: as `run`.
            InputError: an array that is not contiguous, or of another type, shape or device; or
                an output that overlaps something else.
            UsageError: `stream` is no stream; or it, or one that an array comes by, is being
                captured.
        """
        self._require_names(inputs, outputs)
        waits = stream is None
        callers = LEGACY_STREAM if waits else stream_handle(stream)
        if not waits:  # before any call that would break the caller's capture
            refuse_capturing(self._cuda, callers)
        with self._worker() as worker:
            worker.start_after(callers)
            seen = self._look(worker, {**inputs, **(outputs or {})})
            request = self._request(seen[HOLE_MASK].shape)
            results = self._outputs(request) if outputs is None else outputs
            if outputs is None:
                seen |= self._look(worker, results)
            binding = self._place(worker, request, seen)
            worker.execute(binding, waits=waits)
            if waits:
                worker.wait()
            else:
                worker.finish_before(callers)
            for array in results.values():
                if isinstance(array, DeviceArray):
                    array.written_by(None if waits else worker.stream)
        return results

    def close(self) -> None:
        """Wait for the calls that are running, then free everything; later calls are refused."""
        with self._free:
            self._closed = True
            self._free.notify_all()
            self._free.wait_for(lambda: len(self._idle) == len(self._workers))
            workers, self._workers = self._workers, []
            self._idle.clear()
        if workers:
            with on_device(self._cuda, self._device):
                for worker in workers:
                    worker.close()
                self._plan.close()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        with self._free:
            self._free.wait_for(lambda: self._closed or self._idle)
            if self._closed:
                raise EngineError("the engine is closed")
            worker = self._idle.popleft()
        try:
            with on_device(self._cuda, self._device):
                try:
                    yield worker
                except BaseException:
                    worker.drain()
                    raise
        finally:
            with self._free:
                self._idle.append(worker)
                self._free.notify_all()

    def _require_names(self, inputs: DeviceArrays, outputs: DeviceArrays | None = None) -> None:
        if set(inputs) != set(self._plan.inputs):
            raise InputError(f"found inputs {list(inputs)}; needed {list(self._plan.inputs)}")
        if outputs is not None and set(outputs) != set(self._plan.outputs):
            raise InputError(f"found outputs {list(outputs)}; needed {list(self._plan.outputs)}")

    def _request(self, mask_shape: tuple[int, ...]) -> RunRequest:
        spec = self._plan.inputs[HOLE_MASK].spec
        if len(mask_shape) != len(spec.shape):
            raise InputError(
                f"found {HOLE_MASK} of shape {list(mask_shape)}; needed ({spec.layout})"
            )
        shape = (mask_shape[0], mask_shape[-2], mask_shape[-1])
        return RunRequest(choose(self._plan.profiles, shape), shape)

    def _look(self, worker: Worker, arrays: DeviceArrays) -> dict[str, Any]:
        """Views of those on the GPU, which the worker's stream now follows; others as they are."""
        seen: dict[str, Any] = {}
        for name, array in arrays.items():
            if isinstance(array, np.ndarray) and name in self._plan.inputs:
                seen[name] = array
                continue
            found = seen[name] = view(array, name, worker.stream)
            if found.readonly and name in self._plan.outputs:
                raise InputError(f"found {name} as a read-only array; it is to be written")
            if found.stream is not None:
                worker.start_after(found.stream)
        # A producer that orders its streams itself may have drawn ours into a capture of its.
        refuse_capturing(self._cuda, worker.stream)
        return seen

    def _place(self, worker: Worker, request: RunRequest, seen: dict[str, Any]) -> Binding:
        """Where everything lies, host arrays once they are copied; all are checked."""
        places = {}
        if any(isinstance(array, np.ndarray) for array in seen.values()):
            worker.wait()  # for whoever still reads the buffers they go through
        for name, tensor in {**self._plan.inputs, **self._plan.outputs}.items():
            if isinstance(seen[name], View):
                places[name] = self._checked(seen[name], tensor, request)
            else:
                _require_host(seen[name], tensor, request)
                places[name] = worker.upload(request, name, seen[name])
        _refuse_overlap(places, request, self._plan)
        return Binding(request, tuple(places.items()))

    def _checked(self, seen: View, tensor: Tensor, request: RunRequest) -> int:
        shape = tensor.shape(request.shape)
        check_fits(self._cuda, seen, tensor.name, shape, tensor.dtype, self._device)
        return seen.address

    def _outputs(self, request: RunRequest) -> dict[str, DeviceArray]:
        return {
            name: DeviceArray(self._cuda, tensor.shape(request.shape), tensor.dtype, self._device)
            for name, tensor in self._plan.outputs.items()
        }


def _require_host(array: Any, tensor: Tensor, request: RunRequest) -> None:
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"found {tensor.name} as {type(array).__name__}; needed a NumPy array. Arrays on the "
            "GPU go to run_on_device or Inpainter.fill_on_device"
        )
    if array.dtype != tensor.dtype:
        raise InputError(f"found {tensor.name} of {array.dtype}; needed {tensor.dtype}")
    needed = tensor.shape(request.shape)
    if array.shape != needed:
        raise InputError(f"found {tensor.name} of shape {list(array.shape)}; needed {list(needed)}")


def _refuse_overlap(places: dict[str, int], request: RunRequest, plan: Plan) -> None:
    """An output may share no memory with anything: layers read and write in no known order."""
    sizes = {
        name: tensor.size(request.shape) for name, tensor in {**plan.inputs, **plan.outputs}.items()
    }
    for name in plan.outputs:
        for other, start in places.items():
            apart = start + sizes[other] <= places[name] or places[name] + sizes[name] <= start
            if other != name and not apart:
                raise InputError(f"found {name} in the memory of {other}; needed one of its own")
