"""`make bench`: what it builds and how it says what it measured, on a small network."""

import contextlib
import shutil
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pconv_deploy.assets.photos import sample_photo
from pconv_deploy.benchmark import ceilings
from pconv_deploy.benchmark import suite as benchmark
from pconv_deploy.benchmark import suite_engines as benchmark_engines
from pconv_deploy.benchmark.rivals import rivals
from pconv_deploy.benchmark.run import Timing, unsteady
from pconv_deploy.benchmark.suite import Benchmark, Setting, run_benchmark
from pconv_deploy.engines.backends.openvino import library as openvino_library
from pconv_deploy.engines.backends.openvino.library import processor_capabilities
from pconv_deploy.engines.int8.calibration import CalibrationFiles, read_calibration
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.graphs.file import read_graph
from pconv_deploy.inpainter import Inpainter


def test_measures_every_network_and_says_what_is_too_large(
    checkpoint: Path,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for write in ("write_untrained", "copy_network"):
        monkeypatch.setattr(benchmark, write, partial(shutil.copyfile, checkpoint))
    monkeypatch.setattr(
        benchmark, "export_checkpoint", lambda _from, to, **_more: shutil.copyfile(graph, to)
    )
    monkeypatch.setattr(
        benchmark, "FULL_SIZE", (Setting(1, (64, 64), 2), Setting(10**6, (1024, 1024), 1))
    )
    monkeypatch.setattr(benchmark, "COMPACT", (Setting(2, (64, 64), 1),))
    monkeypatch.setattr(benchmark_engines, "_PRECISIONS", ("fp32",))

    run_benchmark(tmp_path)

    result = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Benchmark)
    full, compact = result.networks
    assert [(run.batch, run.height, run.rounds) for run in full.runs] == [(1, 64, 2)]
    assert [(run.batch, run.height, run.rounds) for run in compact.runs] == [(2, 64, 1)]
    assert full.left_out[0].startswith("batch 1000000, 1024x1024, strokes over a quarter: literal")
    page = (tmp_path / "results.md").read_text()
    for said in (
        "The full-size network",
        "The compact network",
        f"Not measured: {full.left_out[0]}",
    ):
        assert said in page
    rows = [line for line in page.splitlines() if line.startswith("| onnxruntime, fp32 |")]
    assert len(rows) == 2
    assert all("% |" in row for row in rows)
    said = capsys.readouterr().err
    assert said.count("no tensorrt:") == 2


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_is_timed_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    """Both kinds of processor, as OpenVINO would describe them."""
    able = frozenset({"FP32", "INT8", *(["BF16"] if bf16 else [])})
    monkeypatch.setattr(openvino_library, "processor_capabilities", lambda: ("A processor", able))
    said: list[str] = []
    runnable = {(b.name, p) for b, p in benchmark_engines.runnable(said.append)}
    assert {("openvino", "fp32"), ("openvino", "int8")} <= runnable
    assert (("openvino", "bf16") in runnable) == bf16
    refused = "no openvino bf16: this processor (A processor) has no bf16 instructions"
    assert any(line.startswith(refused) for line in said) != bf16


def test_an_unjudged_engine_computes_every_layer_in_eight_bits(graph: Path, tmp_path: Path) -> None:
    crops = benchmark_engines.write_crops(tmp_path / "crops")
    contract = read_graph(graph).contract
    found = read_calibration(CalibrationFiles(photos=crops), contract)
    assert (len(found.calibrate), len(found.held_back), found.unusable) == (13, 5, ())

    folders = benchmark_engines.build_engines(
        graph, crops, tmp_path, judged=False, tune=False, progress=lambda _step: None
    )

    manifests = {folder.name: read_manifest(folder) for folder in folders}
    bf16 = {"openvino-bf16.engine"} if "BF16" in processor_capabilities()[1] else set()
    assert manifests.keys() == bf16 | {
        f"{backend}-{precision}.engine"
        for backend in ("onnxruntime", "openvino")
        for precision in ("fp32", "int8")
    }
    for name, manifest in manifests.items():
        assert (manifest.engine_parity is None) == ("int8" in name)
    with Inpainter.load(tmp_path / "openvino-int8.engine") as inpainter:
        filled = inpainter(sample_photo().resize((64, 64)), np.eye(64, dtype=np.uint8))
    assert filled.size == (64, 64)


@pytest.mark.parametrize(("low", "high", "warned"), [(3.2, 3.7, False), (8.65, 28.07, True)])
def test_figures_that_vary_much_within_a_run_get_a_warning(
    low: float, high: float, warned: bool
) -> None:
    timing = Timing(
        name="engine", p50=10, p90=11, p99=12, images_per_second=100,
        ratio=5, ratio_p10=low, ratio_p90=high,
    )  # fmt: skip
    warning = unsteady([timing])
    assert (warning is not None) is warned
    if warning:
        assert "vary by a factor of 3.2" in warning
    alone = Timing(name="engine", p50=10, p90=30, p99=40, images_per_second=100)
    assert "vary by a factor of 3.0" in (unsteady([alone]) or "")  # by its own spread


def test_what_a_user_could_pick_instead_computes_the_same(checkpoint: Path, graph: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    hole_mask = np.eye(64, dtype=np.uint8)[None]
    with contextlib.ExitStack() as stack:
        found = rivals(checkpoint, (64, 64), read_graph(graph).contract, stack, lambda _step: None)
        filled = {name: np.array(fill(image, hole_mask), int) for name, fill in found.items()}
    plain = {name for name in found if "plain torch.onnx export" in name}
    assert len(plain) == 2
    assert any(name.startswith("PyTorch eager, ") for name in found)
    first = filled[min(plain)]
    for name, result in filled.items():
        assert np.abs(result - first).max() <= (1 if name in plain else 32)
        np.testing.assert_array_equal(result[hole_mask == 0], image[hole_mask == 0])


def test_the_ceiling_of_each_precision(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_CHANNELS", 16)
    monkeypatch.setattr(ceilings, "_SIDE", 8)
    monkeypatch.setattr(ceilings, "_ROUNDS", 1)
    found = ceilings.convolution_ceilings(read_graph(graph).contract)
    assert found.keys() >= {"fp32", "int8"}
    assert all(value > 0 for value in found.values())
