"""Options of the command line, of the manifest's rebuild command, and their profiles."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pconv_deploy.cli.remedies import command_line
from pconv_deploy.engines import folder
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions, changed_options
from pconv_deploy.engines.folder import BuildOptions
from pconv_deploy.engines.shapes import Profile
from pconv_deploy.errors import Remedy
from tests.cli.conftest import Run

TWO_PROFILES = (
    Profile(min=(1, 256, 256), opt=(1, 512, 512), max=(1, 512, 512)),
    Profile(min=(1, 256, 256), opt=(8, 512, 512), max=(8, 1024, 1024)),
)
WIDE_ONES = Profile(min=(2, 64, 96), opt=(2, 64, 96), max=(2, 64, 96))
EVERYTHING = TensorRtOptions(
    profiles=TWO_PROFILES,
    workspace=4096,
    timing_cache="/tmp/timing cache",
    optimization_level=0,
    hardware_compatibility="same-compute-capability",
    version_compatible=True,
    refit=True,
    strip_weights=True,
    tf32=True,
    sparsity="enable",
    profiling_verbosity="layer-names",
    max_aux_streams=0,
    compute_capabilities=("8.6", "12.0"),
)


class _Asked(Exception):  # noqa: N818
    pass


@pytest.fixture
def options_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `build-engine` asks for, without building."""
    asked: list[BuildOptions] = []

    def remember(_graph: Path, _output: Path, options: BuildOptions, **_: Any) -> None:
        asked.append(options)
        raise _Asked

    def ask(*arguments: str) -> Any:
        with pytest.raises(_Asked):
            run("build-engine", "x.onnx", "-o", "x", "--backend", "tensorrt", *arguments)
        return asked[-1].backend_options

    monkeypatch.setattr(folder, "build_engine", remember)
    return ask


@pytest.mark.parametrize("options", [TensorRtOptions(profiles=TWO_PROFILES), EVERYTHING])
def test_the_words_of_options_ask_for_the_same(
    options_of: Callable[..., Any], options: TensorRtOptions
) -> None:
    remedy = Remedy(purpose="", command="build-engine", options=changed_options(options))
    assert changed_options(TensorRtOptions()) == {}
    assert len(changed_options(EVERYTHING)) == 2 + len(EVERYTHING.__struct_fields__)  # all of them
    assert options_of(*shlex.split(command_line(remedy))[2:]) == options


def test_nothing_asked_is_the_backends_own_way(options_of: Callable[..., Any]) -> None:
    assert options_of() is None


def test_trtexecs_spelling(options_of: Callable[..., Any]) -> None:
    remedy = Remedy(purpose="", command="build-engine", options=changed_options(EVERYTHING))
    words = shlex.split(command_line(remedy))[2:]
    camel = [
        re.sub("(?<=[a-z])-([a-z])", lambda found: found[1].upper(), word)
        if word.startswith("--")
        else word
        for word in words
    ]
    assert {"--timingCacheFile", "--builderOptimizationLevel", "--tf32"} <= set(camel)
    assert options_of(*camel) == EVERYTHING


def test_the_best_shape_stands_for_the_others(options_of: Callable[..., Any]) -> None:
    only = (4, 256, 512)
    assert options_of("--optShapes=4x256x512").profiles == (Profile(min=only, opt=only, max=only),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min-shapes", "1x8x8"), "found 1 --min-shapes, 0 --opt-shapes, 0 --max-shapes"),
        (("--opt-shapes", "512"), "found --opt-shapes 512; needed batch x height x width, such"),
        (("--opt-shapes", "0x8x8"), "found --opt-shapes 0x8x8; needed a batch from 1 to 1024"),
        (("--opt-shapes", "9999x8x8"), "needed a batch from 1 to 1024 and sides from 1 to 16384"),
        (("--opt-shapes", "x:1x8x8"), "found --opt-shapes x:1x8x8; needed batch x height"),
        (
            ("--opt-shapes", "1x8x8", "--max-shapes", "1x4x8"),
            "found min 1x8x8, opt 1x8x8, max 1x4x8; needed min <= opt <= max in batch, height and "
            "width\n",
        ),
        (2 * ("--opt-shapes", "1x8x8"), "duplicate profile 1x8x8\n"),
        (("--sparsity", "half"), "is not one of"),
        (("--builder-optimization-level", "6"), "found '6'; needed a whole number, 0 to 5"),
        (("--hardware-compatibility-level", "turing+"), "is not one of"),
        (("--profiling-verbosity", "all"), "is not one of"),
        (("--compute-capabilities", "sm_89"), "needed a compute capability such as 8.9"),
        (("--workspace", "0"), "found '0'; needed a whole number, 1 to 1048576"),
        (("--threads", "2"), "No such option"),
    ],
)
def test_unusable_values_are_refused_at_once(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    result = run("build-engine", "x.onnx", "-o", "x", "--backend", "tensorrt", *arguments)
    assert result.code == 2
    assert message in result.err


def test_other_backends_have_none_of_them(run: Run) -> None:
    result = run("build-engine", "x.onnx", "-o", "x", "--backend", "openvino", "--tf32")
    assert result.code == 2
    assert "the openvino backend has none of the options of tensorrt" in result.err


def test_where_tensorrt_is_not_installed(run: Run, uninstalled: Callable[..., None]) -> None:
    uninstalled("tensorrt", "tensorrt_rtx")
    for backend, title in (("tensorrt", "TensorRT"), ("tensorrt-rtx", "TensorRT for RTX")):
        result = run("build-engine", "x.onnx", "-o", "x", "--backend", backend)
        assert result.code == 6
        needed = f"the {backend} backend needs {title}: pip install 'pconv-deploy[{backend}]'"
        assert needed in result.err
