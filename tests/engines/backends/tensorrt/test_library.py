import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pconv_deploy.engines.backends.tensorrt.library import (
    TENSORRT,
    TENSORRT_RTX,
    Flavour,
    format_errors,
    load,
    new_log,
)
from pconv_deploy.errors import MissingRuntimeError


@pytest.mark.parametrize(
    ("flavour", "version", "refused"),
    [
        (TENSORRT, "10.13.0.35", False),
        (TENSORRT, "11.4.0.106", False),
        (TENSORRT, "10.12.0.36", True),
        (TENSORRT, "12.0.0", True),
        (TENSORRT, "unknown", True),
        (TENSORRT_RTX, "1.7.1.116", False),
        (TENSORRT_RTX, "1.1.0", True),
        (TENSORRT_RTX, "2.0", True),
    ],
)
def test_releases(
    monkeypatch: pytest.MonkeyPatch, flavour: Flavour, version: str, refused: bool
) -> None:
    module: Any = SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, flavour.module, module)
    if not refused:
        assert load(flavour) is module
        return
    with pytest.raises(MissingRuntimeError) as caught:
        load(flavour)
    assert str(caught.value) == (
        f"found {flavour.title} {version}; the {flavour.backend} backend needs {flavour.releases}: "
        f"pip install 'pconv-deploy[{flavour.backend}]'"
    )
    assert TENSORRT.releases == "10 from 10.13 on or 11"


def test_a_module_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "tensorrt":
                raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(MissingRuntimeError, match=r"TensorRT \(libnvinfer\.so\.11: cannot open"):
        load(TENSORRT)


def test_errors_are_kept_for_messages(
    tensorrt: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    log = new_log(tensorrt)
    severity = tensorrt.ILogger.Severity
    with caplog.at_level(logging.DEBUG):
        log.log(severity.ERROR, "it broke")
        log.log(severity.INTERNAL_ERROR, "badly")
        log.log(severity.WARNING, "careful")
        log.log(severity.INFO, "building")
        log.log(severity.VERBOSE, "a kernel")
    assert (log.errors, log.warnings) == (["it broke", "badly"], ["careful"])
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    # What went wrong is raised by whoever asked; nothing is told twice.
    assert levels == {
        "it broke": "DEBUG",
        "badly": "DEBUG",
        "careful": "INFO",
        "building": "INFO",
        "a kernel": "DEBUG",
    }


def test_words_without_places_and_repetitions() -> None:
    said = "Error Code 7: BuildCanceled (Build canceled In next at /_src/optimizer/common/x.cpp:92)"
    assert (
        format_errors([said, said, "Twice. "])
        == "Error Code 7: BuildCanceled (Build canceled); Twice"
    )
