"""Which weights are not swapped, and what is said of it; TensorRT is pretended."""

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from pconv_deploy.commands.refit import refit
from pconv_deploy.contract import Normalisation
from pconv_deploy.engines.backends.tensorrt.backend import TensorRtBackend
from pconv_deploy.engines.base import Built
from pconv_deploy.engines.refit import RefitRequest
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.graphs.file import embed, read_graph
from tests.engines.backends.tensorrt.swapping import (
    NETWORK,
    WHY_NOT_RUN,
    Engine,
    checkpoint_of,
    edit,
    in_place,
)
from tests.engines.backends.tensorrt.swapping import built as built  # fixtures
from tests.engines.backends.tensorrt.swapping import engine as engine
from tests.engines.backends.tensorrt.swapping import folder as folder
from tests.engines.backends.tensorrt.swapping import gpu as gpu
from tests.explained import explained

pytestmark = pytest.mark.usefixtures("gpu")


def test_without_a_gpu_nothing_is_begun(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRtBackend, "why_not_run", WHY_NOT_RUN)
    path = engine()
    steps: list[str] = []
    request = in_place(path, folder / "new.safetensors")
    with pytest.raises(
        EngineError, match="swapped on the GPU that will run the engine, and no NVIDIA driver"
    ):
        refit(request, steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, r"in ranges that were measured with its own weights[^$]*"
         r"Build one with these weights: pconv-deploy build-engine \S*new\.onnx -o new\.engine "
         r"--backend tensorrt --precision int8 .* --calibration-photos PHOTOS$"),
        ({"backend": "openvino"}, r"is an engine for openvino, whose weights cannot be swapped\."
         r"\n  Build one with these weights: pconv-deploy build-engine .* --backend openvino"),
        ({"backend": "abacus"}, r"cannot be swapped: there is no backend 'abacus'"),
        ({"engine": Built()}, r"cannot be swapped: the manifest does not say how TensorRT built"),
    ],
    ids=["int8", "OpenVINO", "unknown backend", "damaged manifest"],
)  # fmt: skip
def test_engines_whose_weights_stay(
    engine: Engine, folder: Path, changes: dict[str, Any], message: str
) -> None:
    path = engine()
    edit(path, **changes)
    with explained(EngineError, match=message):
        refit(in_place(path, folder / "new.onnx"))


def test_nothing_is_replaced_unasked(engine: Engine, folder: Path) -> None:
    path = engine()
    with pytest.raises(UsageError, match="already exists; pass --overwrite to replace it, or -o"):
        refit(RefitRequest(engine=path, weights=folder / "new.onnx", output=path))


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        ({"channels": (8, 16)}, {}, "channels of level 2: found 16, needed 12"),
        ({"kernels": (7, 3)}, {}, "kernels of level 1: found 7, needed 5"),
        ({"channels": (8,), "kernels": (5,)}, {}, "found 1 levels, needed 2"),
        ({"convolution": "ordinary"}, {}, "convolution: found ordinary, needed partial"),
        ({"head": "sigmoid"}, {}, "head: found sigmoid, needed linear"),
        ({}, {"normalisation": Normalisation(mean=(0, 0, 0), std=(1, 1, 1))},
         r"normalisation: found mean \(0\.0, 0\.0, 0\.0\), std \(1\.0, 1\.0, 1\.0\); needed"),
    ],
    ids=["channels", "kernels", "levels", "convolution", "head", "normalisation"],
)  # fmt: skip
def test_checkpoints_of_other_networks(
    engine: Engine,
    config: dict[str, Any],
    more: dict[str, Any],
    message: str,
) -> None:
    path = engine()
    other = checkpoint_of(
        path.with_name("x.safetensors"), 1, msgspec.structs.replace(NETWORK, **config), **more
    )
    steps: list[str] = []
    with explained(
        EngineError,
        match=f"does not fit [^$]*{message}[^$]*with these weights: pconv-deploy "
        r"build-engine \S*x\.safetensors -o new\.engine",
    ):
        refit(in_place(path, other), steps.append)
    assert steps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "exported in fp16, needed fp32"),
        ({"rewrites": ("mask-once",)}, "rewrites: found mask-once; needed collapse-masks, fold"),
        ({"size_multiple": 2}, "sides: found multiples of 2, needed 4"),
    ],
)
def test_graphs_of_another_form(
    engine: Engine, folder: Path, changes: dict[str, Any], message: str
) -> None:
    path, other = engine(), read_graph(folder / "new.onnx")
    embed(other.model, msgspec.structs.replace(other.contract, **changes), other.parity)
    onnx.save(other.model, path.with_name("x.onnx"))
    with pytest.raises(EngineError, match=message):
        refit(in_place(path, path.with_name("x.onnx")))


def test_a_module_is_exported_by_itself(engine: Engine, folder: Path) -> None:
    path = engine()
    facts = json.loads((path / "manifest.json").read_text())
    module = {"factory": "my.net:make", "mask_channels": 1, "partial_convolutions": 4}
    facts["contract"]["source"] |= {"network": None, "module": module}
    (path / "manifest.json").write_text(json.dumps(facts))
    with explained(
        EngineError,
        match=r"from module my\.net:make[^$]*pconv-deploy export --module my\.net:make --weights "
        r"\S*new\.safetensors -o new\.onnx --precision fp32 -O 2$",
    ):
        refit(in_place(path, folder / "new.safetensors"))
