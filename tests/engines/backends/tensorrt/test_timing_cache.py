"""The file of what the builder has measured.

TensorRT reads one back only where there is a GPU: what happens to its content is tried out on a
stand-in, and with TensorRT itself as far as it goes. A round trip on a GPU has never run.
"""

import logging
import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.library import new_log
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.timing_cache import TimingCache
from pconv_deploy.engines.folder import BuildOptions, build_engine
from pconv_deploy.errors import UsageError
from tests.engines.backends.tensorrt.built import options_of
from tests.engines.backends.tensorrt.conftest import SMALL


class FakeCache:
    """Words measured on a device: `gpu word word`."""

    def __init__(self, content: bytes) -> None:
        self.device, *self.measured = content.decode().split() or ["gpu"]

    def combine(self, other: "FakeCache", ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if other.device != self.device:
            return False
        self.measured = sorted({*self.measured, *other.measured})
        return True

    def serialize(self) -> bytes:
        return " ".join([self.device, *self.measured]).encode()


class FakeLog:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []


class FakeConfig:
    """As TensorRT's: it logs that a cache is damaged, and hands out an empty one."""

    def __init__(self, log: FakeLog) -> None:
        self.log, self.cache = log, FakeCache(b"")

    def create_timing_cache(self, content: bytes) -> FakeCache:
        if content.startswith(b"\xff"):
            self.log.errors.append("magic tag does not match")
            self.log.warnings.append("Returning an empty timing cache.")
            return FakeCache(b"")
        return FakeCache(content)

    def set_timing_cache(self, cache: FakeCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.device != "gpu":
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> FakeCache:
        return self.cache


def opened(path: Path) -> tuple[FakeConfig, TimingCache]:
    log = FakeLog()
    config = FakeConfig(log)
    return config, TimingCache(config, log, path)


def test_what_was_measured_is_there_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.touch()  # an empty file is no damage
    config, cache = opened(path)
    assert config.cache.measured == []
    config.cache.measured = ["conv"]
    cache.save()
    config, _ = opened(path)
    assert config.cache.measured == ["conv"]


def test_a_damaged_cache_is_put_aside_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache"
    (tmp_path / "cache.damaged").write_bytes(b"of an earlier time")
    path.write_bytes(b"\xff\xff")
    with caplog.at_level(logging.WARNING):
        config, cache = opened(path)
        assert config.log.errors == []  # none of the build's own
        config.cache.measured = ["new"]
        cache.save()
    assert f"{path} is damaged, or no timing cache of this release" in caplog.text
    assert path.read_bytes() == b"gpu new"
    assert (tmp_path / "cache.damaged1").read_bytes() == b"\xff\xff"
    assert (tmp_path / "cache.damaged").read_bytes() == b"of an earlier time"
    assert f"is in {path}.damaged1 now" in caplog.text


def test_what_was_measured_on_another_gpu_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache"
    _, meanwhile = opened(path)
    path.write_bytes(b"another-gpu x")
    with caplog.at_level(logging.WARNING):
        meanwhile.save()
        assert "is of another kind of GPU" in caplog.text
        caplog.clear()
        config, cache = opened(path)
    assert f"the timing cache {path} is of another kind of GPU and stays as it is" in caplog.text
    assert config.cache.measured == []
    config.cache.measured = ["new"]
    cache.save()
    assert path.read_bytes() == b"another-gpu x"
    assert len(caplog.records) == 1


def test_errors_of_the_build_itself_are_kept(tmp_path: Path) -> None:
    """Only those of reading the file are no failure of the build."""
    path = tmp_path / "cache"
    config, cache = opened(path)
    config.log.errors.append("no kernel for conv1")
    path.write_bytes(b"\xff\xff")
    cache.save()
    assert config.log.errors == ["no kernel for conv1"]


def _measure(path: Path, name: str) -> None:
    config, cache = opened(path)
    config.cache.measured = [*config.cache.measured, name]
    cache.save()


def test_processes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    fork = multiprocessing.get_context("fork")
    names = [f"process{number}" for number in range(8)]
    processes = [fork.Process(target=_measure, args=(path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(names)
    assert path.read_bytes().decode().split() == ["gpu", *names]
    assert [found.name for found in tmp_path.iterdir()] == ["cache"]


def test_tensorrts_own_cache_is_written(tensorrt: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    builder = tensorrt.Builder(log := new_log(tensorrt))
    config: Any = builder.create_builder_config()
    cache = TimingCache(config, log, path)
    cache.save()
    assert path.read_bytes() == bytes(config.get_timing_cache().serialize())
    assert path.read_bytes().startswith(b"ptrt")


def test_tensorrt_itself_says_that_a_cache_is_damaged(
    tensorrt: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(b"neither TensorRT's nor anyone's")
    builder = tensorrt.Builder(log := new_log(tensorrt))
    config: Any = builder.create_builder_config()
    with caplog.at_level(logging.WARNING):
        TimingCache(config, log, path).save()
    assert "is damaged" in caplog.text
    assert path.read_bytes().startswith(b"ptrt")
    aside = tmp_path / "cache.damaged"
    assert aside.read_bytes() == b"neither TensorRT's nor anyone's"


@pytest.mark.usefixtures("tensorrt")
def test_without_a_gpu_the_file_is_left_alone(
    graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(b"measured on many GPUs")
    options = TensorRtOptions(profiles=(SMALL,), timing_cache=str(path))
    with caplog.at_level(logging.WARNING):
        manifest = build_engine(
            graph, tmp_path / "x.engine", BuildOptions(backend="tensorrt", backend_options=options)
        )
    assert f"the timing cache {path} is not used without a GPU: no NVIDIA driver" in caplog.text
    assert path.read_bytes() == b"measured on many GPUs"
    assert options_of(manifest).timing_cache == str(path)


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("name", ["nowhere/cache", "."])
def test_what_can_be_no_file_is_refused(graph: Path, tmp_path: Path, name: str) -> None:
    options = TensorRtOptions(profiles=(SMALL,), timing_cache=str(tmp_path / name))
    with pytest.raises(UsageError, match=r"as the timing cache; needed a file, or the name of one"):
        build_engine(
            graph, tmp_path / "x.engine", BuildOptions(backend="tensorrt", backend_options=options)
        )
