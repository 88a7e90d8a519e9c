import sys

import pytest

from pconv_deploy.engines.cuda import devices
from pconv_deploy.engines.cuda.calls import Cuda
from pconv_deploy.errors import EngineError, MissingRuntimeError
from tests.engines.cuda.fake_cuda import FakeCuda
from tests.engines.cuda.fake_device import Status


def test_a_failure_has_cudas_name_and_words(gpu: FakeCuda, cuda: Cuda) -> None:
    gpu.fail_in = {"cudaGetDevice": Status.cudaErrorUnknown}
    with pytest.raises(EngineError, match=r"cudaGetDevice failed: cudaErrorUnknown \(words for"):
        cuda.call("cudaGetDevice")


def test_a_stream_of_another_context_is_suspected(cuda: Cuda) -> None:
    with pytest.raises(EngineError, match=r"cudaErrorInvalidResourceHandle .* another CUDA con"):
        cuda.call("cudaStreamSynchronize", 4711)


def test_out_of_memory_says_need_and_free(gpu: FakeCuda, cuda: Cuda) -> None:
    gpu.memory = 1 << 30
    kept = cuda.allocate("cudaMalloc", 1 << 20)
    with pytest.raises(EngineError, match=r"needed 1,024\.0 MiB; .* 1,023\.0 MiB free of 1,024"):
        cuda.allocate("cudaMalloc", 1 << 30)
    gpu.cudaFree(kept)


def test_an_allocation_fails_for_other_reasons_too(gpu: FakeCuda, cuda: Cuda) -> None:
    gpu.fail_in = {"cudaMalloc": Status.cudaErrorUnknown}
    with pytest.raises(EngineError, match=r"cudaMalloc of 1\.0 MiB failed: cudaErrorUnknown"):
        cuda.allocate("cudaMalloc", 1 << 20)


def test_bindings_that_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingRuntimeError, match="pip install"):
        Cuda.load()


def test_the_real_bindings_take_what_we_pass() -> None:
    """Without a driver each call ends with a status; types it does not take end in a TypeError."""
    if devices.why_no_gpu() is None:
        pytest.skip("there is a GPU, which these arguments would upset")
    runtime = Cuda.load().runtime
    stream, event, graph = 77, runtime.cudaEvent_t(), runtime.cudaGraph_t()
    executable = runtime.cudaGraphExec_t()
    up, down = runtime.cudaMemcpyKind(1), runtime.cudaMemcpyKind(2)
    calls: dict[str, tuple[object, ...]] = {
        "cudaGetDevice": (),
        "cudaSetDevice": (0,),
        "cudaMemGetInfo": (),
        "cudaMalloc": (16,),
        "cudaFree": (4096,),
        "cudaHostAlloc": (16, 0),
        "cudaFreeHost": (4096,),
        "cudaMemsetAsync": (4096, 0xA5, 16, stream),
        "cudaPointerGetAttributes": (4096,),
        "cudaStreamCreateWithFlags": (runtime.cudaStreamNonBlocking,),
        "cudaStreamDestroy": (runtime.cudaStream_t(77),),
        "cudaStreamSynchronize": (stream,),
        "cudaStreamIsCapturing": (stream,),
        "cudaStreamWaitEvent": (stream, event, 0),
        "cudaEventCreateWithFlags": (runtime.cudaEventDisableTiming,),
        "cudaEventRecord": (event, stream),
        "cudaEventDestroy": (event,),
        "cudaStreamBeginCapture": (stream, runtime.cudaStreamCaptureMode(1)),
        "cudaStreamEndCapture": (stream,),
        "cudaGraphInstantiate": (graph, 0),
        "cudaGraphLaunch": (executable, stream),
        "cudaGraphDestroy": (graph,),
        "cudaGraphExecDestroy": (executable,),
        "cudaGetDeviceProperties": (0,),
        "cudaDeviceGetAttribute": (runtime.cudaDeviceAttr.cudaDevAttrTextureAlignment, 0),
    }
    cuda = Cuda.load()
    assert {"cuCtxGetCurrent", "cuCtxSetCurrent"} <= vars(cuda.driver).keys()
    for function, arguments in calls.items():
        status, _ = cuda.attempt(function, *arguments)
        assert cuda.is_error(status, "cudaErrorInsufficientDriver"), (function, status)
    for kind in (up, down):
        status, _ = cuda.attempt("cudaMemcpyAsync", 4096, 8192, 16, kind, stream)
        assert cuda.is_error(status, "cudaErrorInsufficientDriver")
    assert int(runtime.cudaStream_t(77)) == 77


def test_the_real_bindings_say_why_there_is_no_gpu() -> None:
    why = devices.why_no_gpu()
    if why is None:
        pytest.skip("there is a GPU")
    assert why.startswith(("no NVIDIA driver is installed", "CUDA sees no GPU", "the NVIDIA driv"))
    with pytest.raises(EngineError, match="no GPU can be used"):
        devices.current_gpu()
