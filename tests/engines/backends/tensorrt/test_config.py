"""Every option reaches TensorRT, or is refused by name."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.config import configure
from pconv_deploy.engines.backends.tensorrt.library import TENSORRT, TENSORRT_RTX, new_log
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.errors import UsageError


@pytest.fixture
def config(tensorrt: ModuleType) -> Any:
    return tensorrt.Builder(new_log(tensorrt)).create_builder_config()


def test_flags(tensorrt: ModuleType, config: Any) -> None:
    names = ("TF32", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "SPARSE_WEIGHTS")
    flags = [getattr(tensorrt.BuilderFlag, name) for name in names]
    config.set_flag(tensorrt.BuilderFlag.TF32)  # TensorRT's own default
    configure(TENSORRT, tensorrt, config, TensorRtOptions())
    assert [config.get_flag(flag) for flag in flags] == [False] * 5
    every = TensorRtOptions(
        tf32=True, refit=True, strip_weights=True, version_compatible=True, sparsity="enable"
    )
    configure(TENSORRT, tensorrt, config, every)
    assert [config.get_flag(flag) for flag in flags] == [True] * 5


def test_numbers_and_names(tensorrt: ModuleType, config: Any) -> None:
    options = TensorRtOptions(
        workspace=64, optimization_level=5, max_aux_streams=2, profiling_verbosity="layer-names"
    )
    configure(TENSORRT, tensorrt, config, options)
    assert config.get_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 5
    assert config.max_aux_streams == 2
    assert config.profiling_verbosity == tensorrt.ProfilingVerbosity.LAYER_NAMES_ONLY


@pytest.mark.parametrize(
    ("option", "name"),
    [("ampere+", "AMPERE_PLUS"), ("same-compute-capability", "SAME_COMPUTE_CAPABILITY")],
)
def test_hardware_compatibility(tensorrt: ModuleType, option: Any, name: str) -> None:
    seen = SimpleNamespace(clear_flag=lambda _flag: None)
    configure(TENSORRT, tensorrt, seen, TensorRtOptions(hardware_compatibility=option))
    wanted = getattr(tensorrt.HardwareCompatibilityLevel, name)
    assert seen.hardware_compatibility_level == wanted


def test_each_flavour_has_its_own_way_to_several_gpus(tensorrt: ModuleType, config: Any) -> None:
    targets = TensorRtOptions(compute_capabilities=("8.9",))
    with pytest.raises(
        UsageError, match=r"--compute-capabilities goes with --backend tensorrt-rtx"
    ):
        configure(TENSORRT, tensorrt, config, targets)
    levels = TensorRtOptions(hardware_compatibility="ampere+")
    with pytest.raises(UsageError, match=r"TensorRT for RTX has no --hardware-compatibility-level"):
        configure(TENSORRT_RTX, tensorrt, config, levels)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"version_compatible": True}, "has no --version-compatible: its engines open in the rel"),
        ({"timing_cache": "file"}, "has no --timing-cache-file: it measures nothing"),
    ],
)
def test_what_would_have_no_effect_for_rtx_is_refused(
    tensorrt: ModuleType, config: Any, option: Any, why: str
) -> None:
    with pytest.raises(UsageError, match=f"TensorRT for RTX {why}"):
        configure(TENSORRT_RTX, tensorrt, config, TensorRtOptions(**option))


class Targets:
    """A config of TensorRT for RTX, which says no without raising."""

    def __init__(self, takes: int) -> None:
        self.takes, self.num_compute_capabilities, self.chosen = takes, 0, list[str]()
        self.profiling_verbosity: Any = None

        self.flags: set[Any] = set()

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_compute_capability(self, capability: str, index: int) -> bool:
        assert index == len(self.chosen) < self.num_compute_capabilities
        self.chosen.append(capability)
        return len(self.chosen) <= self.takes


@pytest.fixture
def rtx(tensorrt: ModuleType) -> Any:
    """Its module: what the public Python module lacks is added."""
    kinds = SimpleNamespace(SM75="sm75", SM89="sm89", SM120="sm120")
    flags = SimpleNamespace(REQUIRE_USER_ALLOCATION="user allocation", TF32="tf32")
    lacking = {"ComputeCapability": kinds, "BuilderFlag": flags, "__version__": "1.7.1"}
    return SimpleNamespace(**vars(tensorrt) | lacking)


def test_engines_for_rtx_can_be_captured(rtx: Any) -> None:
    config = Targets(takes=0)
    configure(TENSORRT_RTX, rtx, config, TensorRtOptions())
    assert config.flags == {"user allocation"}


def test_compute_capabilities(rtx: Any) -> None:
    config = Targets(takes=2)
    options = TensorRtOptions(compute_capabilities=("8.9", "12.0"))
    configure(TENSORRT_RTX, rtx, config, options)
    assert (config.num_compute_capabilities, config.chosen) == (2, ["sm89", "sm120"])
    with pytest.raises(UsageError, match=r"TensorRT for RTX refuses compute capability 12\.0"):
        configure(TENSORRT_RTX, rtx, Targets(takes=1), options)


def test_a_compute_capability_that_this_release_does_not_know(rtx: Any) -> None:
    options = TensorRtOptions(compute_capabilities=("8.9", "13.0"))
    message = r"capabilities 13\.0; TensorRT for RTX 1\.7\.1 compiles for 7\.5, 8\.9, 12\.0$"
    with pytest.raises(UsageError, match=message):
        configure(TENSORRT_RTX, rtx, Targets(takes=9), options)


def test_a_release_that_leaves_no_compute_capability_to_choose(rtx: Any) -> None:
    del rtx.ComputeCapability
    message = r"RTX 1\.7\.1 cannot be told which GPUs .* Leave --compute-capabilities out"
    with pytest.raises(UsageError, match=message):
        configure(TENSORRT_RTX, rtx, Targets(0), TensorRtOptions(compute_capabilities=("8.9",)))


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("BuilderFlag", {"strip_weights": True}, "has no --strip-weights"),
        ("HardwareCompatibilityLevel", {"hardware_compatibility": "ampere+"}, "has no --hardware"),
    ],
)
def test_options_that_a_release_lacks(
    tensorrt: ModuleType, config: Any, missing: str, options: Any, message: str
) -> None:
    without = SimpleNamespace(**vars(tensorrt) | {missing: SimpleNamespace()})
    with pytest.raises(UsageError, match=rf"TensorRT 11\.4\.0\.106 {message}"):
        configure(TENSORRT, without, config, TensorRtOptions(**options))  # type: ignore[arg-type]
