"""The genuine TensorRT builder on a machine without a GPU, from two public wheels.

One wheel has TensorRT's Python module without its libraries, the other TensorRT for RTX, whose
builder needs no GPU, without a Python module. A small library of ours, compiled here, joins them.
What is built is TensorRT for RTX's; nothing runs. Whatever is missing is a failure, not a skip.
"""

import ctypes
import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

_SOURCE = Path(__file__).with_name("forward.c")
_NAMES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
_INSTALL = "run `make install`, which installs what requirements.txt pins"


def load_forwarded(folder: Path) -> ModuleType:
    """Compile the libraries into `folder`, load everything, and import TensorRT's module."""
    module, rtx = find_package("tensorrt_bindings"), find_package("onnxruntime_ep_nv_tensorrt_rtx")
    infer, parser = (
        _only(rtx, f"lib{name}_rtx.so.1.*") for name in ("tensorrt", "tensorrt_onnxparser")
    )
    # Loaded once, they are found by their names, wherever they lie.
    for library in (infer, parser):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    major = _major(module)
    for name in _NAMES:
        soname = f"{name}.so.{major}"
        _compile(folder / soname, soname, infer, parser)
        ctypes.CDLL(str(folder / soname), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module("tensorrt_bindings")


def as_rtx(module: ModuleType) -> ModuleType:
    """The same module as TensorRT for RTX publishes it: by another name and version."""
    renamed = ModuleType("tensorrt_rtx")
    renamed.__dict__.update({k: v for k, v in vars(module).items() if k != "__name__"})
    found = _only(find_package("onnxruntime_ep_nv_tensorrt_rtx"), "libtensorrt_rtx.so.1.*")
    renamed.__version__ = found.name.partition(".so.")[2]  # type: ignore[attr-defined]
    return renamed


def install(folder: Path) -> None:
    """For a process of its own: let `import tensorrt` and `import tensorrt_rtx` find it."""
    module = load_forwarded(folder)
    sys.modules |= {"tensorrt": module, "tensorrt_rtx": as_rtx(module)}


def find_package(name: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.fail(f"the tests of TensorRT need the package {name}: {_INSTALL}", pytrace=False)
    return Path(spec.origin).parent


def _only(folder: Path, pattern: str) -> Path:
    found = [path for path in folder.glob(pattern) if not path.is_symlink()]
    if len(found) != 1:
        pytest.fail(f"{folder} holds {len(found)} files {pattern}; needed one", pytrace=False)
    return found[0]


def _major(module: Path) -> str:
    version = next(module.parent.glob("tensorrt_cu13_bindings-*.dist-info")).name
    return version.partition("-")[2].partition(".")[0]


def _compile(output: Path, soname: str, infer: Path, parser: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.fail("the tests of TensorRT need a C compiler: apt install gcc", pytrace=False)
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{soname}"]
    command += [f'-DRTX_LIBRARY="{infer}"', f'-DPARSER_LIBRARY="{parser}"']
    command += [str(_SOURCE), "-o", str(output), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{soname} does not compile: {done.stderr}", pytrace=False)
