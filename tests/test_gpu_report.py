"""The report of `make gpu-report`, without a GPU: everything but the figures."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pconv_deploy.contract import FILLED, IMAGE
from pconv_deploy.demo import gpu_report
from pconv_deploy.demo.gpu_contenders import (
    CompiledReady,
    Contender,
    EngineReady,
    contenders,
    profiles,
    timed,
)
from pconv_deploy.demo.gpu_measuring import (
    GpuReportOptions,
    Recorder,
    chosen,
    measure_all,
    report_paths,
)
from pconv_deploy.demo.gpu_report import make_report
from pconv_deploy.demo.gpu_results import GpuReport, Measurement, Participant, Setting, markdown
from pconv_deploy.engines.base import Gpu
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.onnx_file import read_graph
from pconv_deploy.parity import Arrays, parity_batches

GPU = Gpu(
    name="NVIDIA Imagined X",
    compute_capability="9.0",
    memory=141 << 30,
    driver="580.1",
    cuda="13.0",
)
SMALL = GpuReportOptions(batches=(1, 2), sides=(32,), rounds=3, limit=5)


class Imagined:
    """Fills at once, unless asked for a graph."""

    runs_on = "a test"
    accepted: str | None = "within 1e-6"

    def __init__(
        self, level: int = 0, refuses: Callable[[Setting], bool] = lambda _s: False
    ) -> None:
        self.level, self.refuses = level, refuses
        self.closed = False

    def step(self, setting: Setting, inputs: Arrays) -> Callable[[], Any]:
        if self.refuses(setting):
            raise EngineError(f"no graph at batch {setting.batch}\nand more of no interest")
        assert inputs[IMAGE].shape == (setting.batch, setting.side, setting.side, 3)
        return lambda: np.full_like(inputs[IMAGE], self.level)

    def close(self) -> None:
        self.closed = True


def contender(name: str, ready: Imagined) -> Contender:
    return Contender(name, lambda _progress: ready)


def broken(name: str, error: BaseException) -> Contender:
    def prepare(_progress: Any) -> Any:
        raise error

    return Contender(name, prepare)


def recorder(folder: Path, planned: int = 0) -> Recorder:
    report = GpuReport(
        device=GPU.name,
        gpu=GPU,
        network="a network",
        environment={"torch": "2"},
        created="today",
        rounds=3,
        planned=planned,
    )
    return Recorder(report, folder)


def read(folder: Path) -> GpuReport:
    return msgspec.json.decode((folder / "nvidia-imagined-x.json").read_bytes(), type=GpuReport)


def test_whoever_fails_is_a_line_that_says_why(tmp_path: Path) -> None:
    told: list[str] = []
    good = Imagined(level=7)
    everyone = [
        broken("absent", EngineError("no CUDA here: install it\nsecond line")),
        contender("first", good),
        contender("graphless", Imagined(level=9, refuses=lambda s: s.cuda_graph and s.batch == 2)),
        broken("bug", ValueError("a | bar")),
    ]
    measure_all(everyone, recorder(tmp_path, planned=16), SMALL, told.append)
    report = read(tmp_path)
    assert report.finished
    by_name = {one.name: one for one in report.participants}
    assert by_name["absent"].why == "no CUDA here: install it"
    assert by_name["bug"].why == "ValueError: a | bar"
    assert by_name["first"].why is None
    assert by_name["first"].levels is None  # the others are compared with it
    assert by_name["graphless"].levels == 2
    assert len(report.measurements) == 16
    failed = [m for m in report.measurements if m.why]
    assert {(m.contender, m.setting.batch, m.why) for m in failed} == {
        ("graphless", 2, "no graph at batch 2")
    }
    assert len(failed) == 2
    for m in report.measurements:
        if m.why is None:
            assert m.rounds == 3
            assert m.p50 is not None
            assert m.p99 is not None
            assert m.images_per_second == pytest.approx(m.setting.batch / m.p50 * 1e3)
            assert m.p99 >= m.p50 > 0
    assert good.closed
    assert any("[1/4] absent" in line for line in told)
    assert any("takes no part: no CUDA here" in line for line in told)
    assert sum("p50" in line for line in told) == 14
    text = (tmp_path / "nvidia-imagined-x.md").read_text()
    assert "| absent | takes no part: no CUDA here: install it |" in text
    assert "ValueError: a \\| bar" in text
    assert "none (1)" in text
    assert "\n1. no graph at batch 2\n" in text


def test_what_was_measured_survives_an_interruption(tmp_path: Path) -> None:
    def interrupted(setting: Setting) -> bool:
        if setting.batch == 2:
            raise KeyboardInterrupt
        return False

    everyone = [contender("first", Imagined(refuses=interrupted))]
    with pytest.raises(KeyboardInterrupt):
        measure_all(everyone, recorder(tmp_path, planned=8), SMALL, lambda _step: None)
    report = read(tmp_path)
    assert not report.finished
    assert len(report.measurements) == 4
    assert "Not finished: 4 of 8" in (tmp_path / "nvidia-imagined-x.md").read_text()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_the_markdown_has_a_place_for_every_figure() -> None:
    setting = Setting(batch=1, side=512, transfers=False, cuda_graph=True)
    other = msgspec.structs.replace(setting, transfers=True)
    measured = Measurement(
        contender="a", setting=setting, rounds=9, p50=0.9124, p99=1.5, images_per_second=1096.0
    )
    report = GpuReport(
        device=GPU.name,
        gpu=GPU,
        network="the network",
        environment={"torch": "2.13"},
        created="2026-01-01",
        rounds=9,
        planned=3,
        finished=True,
        participants=(Participant(name="a", runs_on="x", accepted="y", levels=1, seconds=2.25),),
        measurements=(
            measured,
            Measurement(contender="a", setting=other, why="out of memory"),
            Measurement(contender="b", setting=setting, why="out of memory"),
        ),
    )
    assert markdown(report) == (
        "# NVIDIA Imagined X\n\n"
        "Compute capability 9.0, 141 GiB, driver 580.1, CUDA 13.0; torch 2.13.\n\n"
        "the network. Begun 2026-01-01; at most 9 rounds each. "
        "uint8 image and hole mask in, composited uint8 image out.\n\n"
        "| contender | runs on | against its graph | levels off | s to build |\n"
        "|---|---|---|---|---|\n"
        "| a | x | y | 1 | 2.2 |\n\n"
        "*Levels off*: the most that a filled byte differs from PyTorch's in fp32, on a photo.\n\n"
        "## Batch 1, 512x512\n\n"
        "p50 / p99 milliseconds (images a second)\n\n"
        "|  | on the GPU, CUDA graph | with transfers, CUDA graph |\n"
        "|---|---|---|\n"
        "| a | 0.912 / 1.5 (1,096) | none (1) |\n"
        "| b | none (1) | not reached |\n\n"
        "1. out of memory\n"
    )


def test_only_chooses_by_parts_of_names() -> None:
    everyone = [contender(name, Imagined()) for name in ("tensorrt, fp16", "PyTorch eager")]
    assert chosen(everyone, ()) == everyone
    assert chosen(everyone, ["tensorrt", "fp16"]) == everyone[:1]
    with pytest.raises(UsageError, match="matches nobody; there are: tensorrt, fp16; PyTorch eag"):
        chosen(everyone, ["tensorflow"])


def test_every_setting_is_planned() -> None:
    settings = GpuReportOptions().settings()
    assert len(settings) == len(set(settings)) == 3 * 3 * 2 * 2


def test_timing_ends_with_the_rounds_or_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[float] = []
    assert len(timed(lambda: runs.append(0), rounds=5, limit=60)) == 5
    assert len(runs) == 5 + 3  # the first are not counted
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert len(timed(lambda: None, rounds=500, limit=9)) == 3  # three looks at the clock a round


def test_pytorch_on_the_cpu_tries_the_report_out(
    checkpoint: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_exported(_checkpoint: Path, target: Path, **_options: Any) -> None:
        shutil.copyfile(graph, target)

    monkeypatch.setattr(gpu_report, "export_checkpoint", as_exported)
    found = make_report(tmp_path / "out", SMALL, checkpoint=checkpoint, device="cpu")
    report = found.report
    assert report.gpu is None
    assert report.finished
    text = (tmp_path / "out" / "cpu-only.md").read_text()
    assert "**No GPU: this tries out the report and says nothing of one.**" in text
    by_name = {one.name: one for one in report.participants}
    assert by_name["PyTorch eager, fp32"].runs_on == f"torch {torch.__version__} on the CPU"
    assert (by_name["PyTorch eager, fp16 channels-last"].levels or 0) <= 2
    for name in ("onnxruntime-cuda, fp16", "tensorrt, fp16", "torch.compile max-autotune"):
        (one,) = [p for p in report.participants if p.name.startswith(name)]
        assert one.why
    measured = [m for m in report.measurements if m.p50]
    assert len(measured) == 2 * 4
    reasons = {m.why for m in report.measurements if m.why}
    assert reasons == {"CUDA graphs need a GPU"}
    assert set(by_name) == {c.name for c in everyone(checkpoint)}
    with pytest.raises(UsageError, match=r"cpu-only\.md already exists; pass --overwrite"):
        make_report(tmp_path / "out", SMALL, checkpoint=checkpoint, device="cpu")


def everyone(checkpoint: Path) -> list[Contender]:
    return contenders(checkpoint, checkpoint, checkpoint.parent, "cpu", [])


def test_without_a_gpu_it_says_so_in_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pconv_deploy.demo.gpu_report", "--output", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (EngineError.exit_code, 6), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_its_files_are_named_after_the_gpu(tmp_path: Path) -> None:
    data, text = report_paths(tmp_path, "NVIDIA H200 (MIG 1g.18gb)")
    assert data == tmp_path / "nvidia-h200-mig-1g-18gb.json"
    assert text.name == "nvidia-h200-mig-1g-18gb.md"


def test_tensorrt_is_given_a_profile_for_each_shape_and_for_acceptance(graph: Path) -> None:
    contract = read_graph(graph).contract
    *exact, last = profiles([(1, 256, 256), (32, 512, 512)], contract)
    assert [p.min for p in exact] == [p.opt for p in exact] == [p.max for p in exact]
    assert [p.opt for p in exact] == [(1, 256, 256), (32, 512, 512)]
    for cases in parity_batches(contract):
        assert last.takes((len(cases), *cases[0].hole_mask.shape))


def test_an_engine_runs_as_its_session_can(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {IMAGE: np.zeros((1, 8, 8, 3), np.uint8)}
    on_gpu = Setting(batch=1, side=8, transfers=False, cuda_graph=True)
    back = msgspec.structs.replace(on_gpu, transfers=True)
    opened: list[bool] = []
    done: list[str] = []
    onnxruntime = SimpleNamespace(
        run=lambda _inputs: {FILLED: "filled"},
        resident=lambda _inputs: lambda: done.append("resident"),
        close=lambda: done.append("closed"),
    )

    def open_engine(_self: EngineReady, *, graphs: bool) -> Any:
        opened.append(graphs)
        return onnxruntime

    monkeypatch.setattr(EngineReady, "_open", open_engine)
    backend: Any = SimpleNamespace(runtime=lambda: SimpleNamespace(describe=lambda: "a runtime"))
    manifest: Any = SimpleNamespace(engine_parity=None, precision="fp16")
    ready = EngineReady(backend, Path("x"), manifest)
    assert "NOT compared" in (ready.accepted or "")
    ready.step(on_gpu, inputs)()
    ready.step(on_gpu, inputs)()
    assert done == ["resident"] * 2
    with pytest.raises(EngineError, match="replays graphs only on arrays that stay on the GPU"):
        ready.step(back, inputs)
    plain = msgspec.structs.replace(back, cuda_graph=False)
    assert ready.step(plain, inputs)() == "filled"
    assert opened == [True, False]
    ready.close()
    assert done[2:] == ["closed", "closed"]


def test_torch_compile_forgets_the_shapes_before(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def compiled(graph: Any, mode: str, **options: Any) -> Any:
        assert options == {"dynamic": False, "fullgraph": True}
        done.append(mode)
        return graph

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    ready: Any = object.__new__(CompiledReady)
    ready._graph, ready._compiled = lambda image, _hole: (image, None), None
    for setting in GpuReportOptions(batches=(1,), sides=(256,)).settings():
        assert ready._compute(setting)(7, 8) == 7
    assert done == ["reset", "max-autotune", "reset", "max-autotune-no-cudagraphs"]
    with pytest.raises(EngineError, match="on GPUs only"):
        CompiledReady(checkpoint, "cpu", torch.float16)


def test_the_json_is_for_programs(tmp_path: Path) -> None:
    measure_all([contender("a", Imagined())], recorder(tmp_path), SMALL, lambda _step: None)
    facts = json.loads((tmp_path / "nvidia-imagined-x.json").read_text())
    assert facts["gpu"]["compute_capability"] == "9.0"
    assert facts["measurements"][0]["setting"] == {
        "batch": 1,
        "side": 32,
        "transfers": False,
        "cuda_graph": True,
    }
