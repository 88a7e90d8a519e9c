"""One worker of a session: a stream, and the contexts, graphs and buffers that belong to it."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_deploy.engines.backends.tensorrt.cuda.arrays import copy_to_device, copy_to_host
from pconv_deploy.engines.backends.tensorrt.cuda.memory import DeviceMemory, PinnedMemory
from pconv_deploy.engines.backends.tensorrt.cuda.streams import (
    Event,
    Graph,
    Stream,
    refuse_capturing,
)
from pconv_deploy.engines.backends.tensorrt.graphs import Captured, GraphCache
from pconv_deploy.engines.backends.tensorrt.plan import Plan, Tensor
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.engines.shapes import Shape
from pconv_deploy.errors import EngineError
from pconv_deploy.parity import Arrays

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRequest:
    """What is to be computed: (batch, height, width), by which of the plan's profiles."""

    profile: int
    shape: Shape


@dataclass(frozen=True)
class Binding:
    """A request and where its tensors lie on the GPU: all that a graph holds fixed."""

    request: RunRequest
    addresses: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Buffer:
    """Where a tensor lies on both sides of the bus; as large as its profile's largest shape."""

    device: DeviceMemory
    pinned: PinnedMemory

    def host(self, tensor: Tensor, shape: Shape) -> NDArray[Any]:
        """Its pinned side as an array."""
        own = self.pinned.bytes[: tensor.size(shape)].view(tensor.dtype)
        return own.reshape(tensor.shape(shape))


class Worker:
    """Runs one request at a time; whoever has it is alone with it.

    All its work goes to its one stream, so that each run follows the one before.

    runs_by_graph  how many of its runs were launched as a CUDA graph
    """

    def __init__(self, cuda: Cuda, plan: Plan, *, graphs: bool) -> None:
        self._cuda, self._plan, self._wants_graphs = cuda, plan, graphs
        self._buffers: dict[int, Mapping[str, _Buffer]] = {}
        self._graphs = GraphCache()
        self._bound: Binding | None = None  # what the direct context is set to
        self.runs_by_graph = 0
        with contextlib.ExitStack() as made:
            self._stream = Stream(cuda)
            made.callback(self._stream.close)
            self._order = Event(cuda)
            made.callback(self._order.close)
            self._memory = DeviceMemory(cuda, plan.memory, plan.alignment)
            made.callback(self._memory.close)
            self._direct: Any = plan.new_context(self._memory.address)
            made.pop_all()

    @property
    def stream(self) -> int:
        """The handle of its stream."""
        return self._stream.handle

    def run(self, request: RunRequest, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute host arrays, which are already known to fit, from host arrays."""
        buffers = self._buffers_of(request.profile)
        self.wait()  # the GPU may still be reading what an earlier call left there
        for name in self._plan.inputs:
            self.upload(request, name, inputs[name])
        everything = (*self._plan.inputs, *self._plan.outputs)
        places = tuple((name, buffers[name].device.address) for name in everything)
        self.execute(Binding(request, places), waits=True)
        results = {}
        for name, tensor in self._plan.outputs.items():
            results[name] = buffers[name].host(tensor, request.shape)
            copy_to_host(self._cuda, results[name], buffers[name].device.address, self.stream)
        self.wait()
        return {name: array.copy() for name, array in results.items()}

    def upload(self, request: RunRequest, name: str, array: NDArray[Any]) -> int:
        """Give the stream the copy of a host array into the worker's buffer; return its address.

        What an earlier call left in the buffer must have been read, see `wait`.
        """
        buffer = self._buffers_of(request.profile)[name]
        pinned = buffer.host(self._plan.inputs[name], request.shape)
        np.copyto(pinned, array)
        copy_to_device(self._cuda, buffer.device.address, pinned, self.stream)
        return buffer.device.address

    def execute(self, binding: Binding, *, waits: bool) -> None:
        """Give the stream the work, as a graph if there is one.

        Args:
            binding: what, and where.
            waits: the caller waits for the result anyway, so a graph may be captured and checked.
        """
        captured = self._graphs.find(binding)
        if captured:
            captured.graph.launch(self.stream)
            self.runs_by_graph += 1
            return
        self._run_directly(binding)
        if waits and self._wants_graphs and self._graphs.lacks(binding):
            self._try_to_capture(binding)

    def start_after(self, stream: int) -> None:
        """Go on only after what a stream has been given so far.

        Raises:
            UsageError: that stream is being captured, and this one would be drawn into it.
        """
        refuse_capturing(self._cuda, stream)
        self._order.record(stream)
        self._order.make_wait(self.stream)

    def finish_before(self, stream: int) -> None:
        """Let a stream go on only after what this worker has been given so far."""
        self._order.record(self.stream)
        self._order.make_wait(stream)

    def wait(self) -> None:
        """Wait here until all is done."""
        self._cuda.call("cudaStreamSynchronize", self.stream)

    def drain(self) -> None:
        """After a failure: wait for what was already given to the GPU, whatever became of it."""
        self._cuda.attempt("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        if self._direct is None:
            return
        self.drain()
        self._graphs.close()
        self._direct = None
        for buffers in self._buffers.values():
            for buffer in buffers.values():
                buffer.device.close()
                buffer.pinned.close()
        self._buffers.clear()
        for owned in (self._memory, self._order, self._stream):
            owned.close()

    def _buffers_of(self, profile: int) -> Mapping[str, _Buffer]:
        if profile not in self._buffers:
            largest = self._plan.profiles[profile].max
            with contextlib.ExitStack() as made:
                buffers = {}
                for name, tensor in (*self._plan.inputs.items(), *self._plan.outputs.items()):
                    device = DeviceMemory(self._cuda, tensor.size(largest))
                    made.callback(device.close)
                    pinned = PinnedMemory(self._cuda, tensor.size(largest))
                    made.callback(pinned.close)
                    buffers[name] = _Buffer(device, pinned)
                made.pop_all()
            self._buffers[profile] = buffers
        return self._buffers[profile]

    def _run_directly(self, binding: Binding) -> None:
        if binding != self._bound:
            self._bound = None
            self._bind(self._direct, binding)
            self._bound = binding
        self._enqueue(self._direct, binding)

    def _bind(self, context: Any, binding: Binding) -> None:
        request = binding.request
        taken = [True]
        if context.active_optimization_profile != request.profile:
            taken.append(context.set_optimization_profile_async(request.profile, self.stream))
        for name, tensor in self._plan.inputs.items():
            taken.append(context.set_input_shape(name, tensor.shape(request.shape)))
        for name, address in binding.addresses:
            taken.append(context.set_tensor_address(name, address))
        for name, tensor in self._plan.outputs.items():
            # What TensorRT is to write must fit into what we have for it.
            taken.append(tuple(context.get_tensor_shape(name)) == tensor.shape(request.shape))
        if not all(taken):
            raise EngineError(
                f"TensorRT does not take batch, height, width {request.shape} with "
                f"profile {request.profile}: {self._plan.words()}"
            )

    def _enqueue(self, context: Any, binding: Binding) -> None:
        if not context.execute_async_v3(self.stream):
            raise EngineError(
                f"TensorRT failed at batch, height, width {binding.request.shape}: "
                f"{self._plan.words()}"
            )

    def _try_to_capture(self, binding: Binding) -> None:
        """Capture what has just been run directly, and keep it if it computes the very same."""
        try:
            self._graphs.keep(binding, self._checked_graph(binding))
        except EngineError as error:
            last = self._graphs.fail(binding)
            _LOG.log(
                logging.WARNING if last else logging.INFO,
                "running batch, height, width %s without a CUDA graph%s: %s",
                binding.request.shape,
                "" if last else " for now",
                str(error),  # the exception itself would keep the context, if a log kept it
            )
            self._run_directly(binding)

    def _checked_graph(self, binding: Binding) -> Captured:
        graph = None
        try:
            expected = self._outputs(binding)
            context = self._plan.new_context(self._memory.address)
            self._bind(context, binding)
            self._enqueue(context, binding)  # in its first run TensorRT settles what is new
            self.wait()
            self._require_capturable(context)
            graph = Graph(self._cuda, self.stream, lambda: self._enqueue(context, binding))
            self._erase_outputs(binding)
            graph.launch(self.stream)
            _require_same(self._outputs(binding), expected)
        except BaseException:
            self.drain()  # what runs may lose neither its context nor its graph
            if graph:
                graph.close()
            raise
        return Captured(graph, context)

    def _require_capturable(self, context: Any) -> None:
        """TensorRT for RTX tells beforehand; of TensorRT, capturing itself does."""
        ask = getattr(context, "is_stream_capturable", None)
        if ask is not None and not ask(self.stream):
            raise EngineError("TensorRT says that this plan cannot be captured")

    def _outputs(self, binding: Binding) -> dict[str, NDArray[Any]]:
        addresses = dict(binding.addresses)
        found = {}
        for name, tensor in self._plan.outputs.items():
            found[name] = np.empty(tensor.shape(binding.request.shape), tensor.dtype)
            copy_to_host(self._cuda, found[name], addresses[name], self.stream)
        self.wait()
        return found

    def _erase_outputs(self, binding: Binding) -> None:
        """So that a graph which computes nothing is not taken for one that computes the same."""
        addresses = dict(binding.addresses)
        for name, tensor in self._plan.outputs.items():
            size = tensor.size(binding.request.shape)
            self._cuda.call("cudaMemsetAsync", addresses[name], 0xA5, size, self.stream)


def _require_same(found: Arrays, expected: Arrays) -> None:
    for name, array in found.items():
        if array.tobytes() != expected[name].tobytes():
            raise EngineError(f"its {name} is not that of direct execution")
