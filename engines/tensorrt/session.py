"""Running a TensorRT plan: from several threads, with arrays of the host or of the GPU."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from pconv_deploy.contract import HOLE_MASK
from pconv_deploy.engines.base import RunOptions
from pconv_deploy.engines.cuda.arrays import DeviceArray, DeviceArrays, View, require, view
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.cuda.devices import current_gpu
from pconv_deploy.engines.cuda.streams import on_device, refuse_capturing, stream_handle
from pconv_deploy.engines.tensorrt.plan import Plan, Tensor
from pconv_deploy.engines.tensorrt.profiles import choose
from pconv_deploy.engines.tensorrt.worker import Binding, Request, Worker
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
                run is done; nobody waits here, and the caller leaves inputs and outputs alone
                until then. None waits here until the run is done.
            outputs: arrays to write into. Fastest is to give the same ones again and again:
                inputs and outputs at known addresses run as a CUDA graph from the third time on.
                None makes new ones.

        Returns:
            `outputs`, or new arrays that offer both protocols and own their memory.

        Raises:
            EngineError: as `run`.
            InputError: an array that is not contiguous, or of another type, shape or device; or
                an output that overlaps something else.
            UsageError: `stream` is none, or is being captured.
        """
        self._require_names(inputs)
        callers = None if stream is None else stream_handle(stream)
        with self._worker() as worker:
            if callers is not None:
                refuse_capturing(self._cuda, callers)
                worker.follow(callers)
            seen = {
                name: array if isinstance(array, np.ndarray) else view(array, name, worker.stream)
                for name, array in inputs.items()
            }
            request = self._request(seen[HOLE_MASK].shape)
            if any(isinstance(array, np.ndarray) for array in seen.values()):
                worker.wait()  # for whoever still reads the buffers they go through
            places = {
                name: self._place_input(worker, request, tensor, seen[name])
                for name, tensor in self._plan.inputs.items()
            }
            results = self._outputs(request) if outputs is None else outputs
            for name, tensor in self._plan.outputs.items():
                places[name] = self._place_output(worker, request, tensor, results)
            _refuse_overlap(places, request, self._plan)
            worker.execute(Binding(request, tuple(places.items())), recurring=False)
            if callers is None:
                worker.wait()
            else:
                worker.hold_back(callers)
                _written_on(results, callers)
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
                    worker.settle()
                    raise
        finally:
            with self._free:
                self._idle.append(worker)
                self._free.notify_all()

    def _require_names(self, inputs: DeviceArrays) -> None:
        if set(inputs) != set(self._plan.inputs):
            raise InputError(f"found inputs {list(inputs)}; needed {list(self._plan.inputs)}")

    def _request(self, mask_shape: tuple[int, ...]) -> Request:
        spec = self._plan.inputs[HOLE_MASK].spec
        if len(mask_shape) != len(spec.shape):
            raise InputError(
                f"found {HOLE_MASK} of shape {list(mask_shape)}; needed ({spec.layout})"
            )
        shape = (mask_shape[0], mask_shape[-2], mask_shape[-1])
        return Request(choose(self._plan.profiles, shape), shape)

    def _place_input(self, worker: Worker, request: Request, tensor: Tensor, array: Any) -> int:
        if isinstance(array, View):
            return self._place(worker, request, tensor, array)
        _require_host(array, tensor, request)
        return worker.upload(request, tensor.name, array)

    def _place_output(
        self, worker: Worker, request: Request, tensor: Tensor, results: DeviceArrays
    ) -> int:
        if tensor.name not in results:
            raise InputError(f"found outputs {list(results)}; needed {list(self._plan.outputs)}")
        seen = view(results[tensor.name], tensor.name, worker.stream)
        if seen.readonly:
            raise InputError(f"found {tensor.name} as a read-only array; it is to be written")
        return self._place(worker, request, tensor, seen)

    def _place(self, worker: Worker, request: Request, tensor: Tensor, seen: View) -> int:
        shape = tensor.shape(request.shape)
        require(self._cuda, seen, tensor.name, shape, tensor.dtype, self._device)
        if seen.stream is not None:
            worker.follow(seen.stream)
        return seen.address

    def _outputs(self, request: Request) -> dict[str, DeviceArray]:
        return {
            name: DeviceArray(self._cuda, tensor.shape(request.shape), tensor.dtype, self._device)
            for name, tensor in self._plan.outputs.items()
        }


def _require_host(array: Any, tensor: Tensor, request: Request) -> None:
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


def _refuse_overlap(places: dict[str, int], request: Request, plan: Plan) -> None:
    """An output may share no memory with anything: layers read and write in no known order."""
    sizes = {
        name: tensor.size(request.shape) for name, tensor in {**plan.inputs, **plan.outputs}.items()
    }
    for name in plan.outputs:
        for other, start in places.items():
            apart = start + sizes[other] <= places[name] or places[name] + sizes[name] <= start
            if other != name and not apart:
                raise InputError(f"found {name} in the memory of {other}; needed one of its own")


def _written_on(results: DeviceArrays, stream: int) -> None:
    for array in results.values():
        if isinstance(array, DeviceArray):
            array.stream = stream
