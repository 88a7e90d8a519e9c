"""The report of `make gpu-report`, without a GPU: everything but the figures."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pconv_deploy.benchmark.gpu import report as gpu_report
from pconv_deploy.benchmark.gpu.contenders import chosen, contenders
from pconv_deploy.benchmark.gpu.measuring import (
    GpuReportOptions,
    Recorder,
    measure_all,
    report_paths,
)
from pconv_deploy.benchmark.gpu.report import make_report
from pconv_deploy.benchmark.gpu.results import (
    METHOD,
    GpuReport,
    Measurement,
    Participant,
    Setting,
    markdown,
)
from pconv_deploy.benchmark.gpu.steps import GpuContender, Step
from pconv_deploy.contract import IMAGE
from pconv_deploy.engines.base import Gpu
from pconv_deploy.errors import EngineError, UsageError
from pconv_deploy.parity import Arrays

GPU = Gpu(
    name="NVIDIA Imagined X",
    compute_capability="9.0",
    memory=141 << 30,
    driver="580.1",
    cuda="13.0",
)
SMALL = GpuReportOptions(batches=(1, 2), sides=(32,), rounds=3, limit=5)


class Imagined:
    """Fills at once, unless asked for what it refuses; elsewhere it fills with `level`."""

    runs_on = "a test"
    accepted: str | None = "within 1e-6"

    def __init__(
        self,
        level: int = 0,
        refuses: Callable[[Setting], bool] = lambda _s: False,
        wrong: Callable[[Setting], bool] = lambda _s: False,
    ) -> None:
        self.level, self.refuses, self.wrong = level, refuses, wrong
        self.closed = False

    def step(self, setting: Setting, inputs: Arrays) -> Step:
        if self.refuses(setting):
            raise EngineError(f"no graph at batch {setting.batch}\nand more of no interest")
        assert inputs[IMAGE].shape == (setting.batch, setting.side, setting.side, 3)
        filled = np.full_like(inputs[IMAGE], self.level)
        if self.wrong(setting):
            filled[-1] += 33
        return Step(lambda: None, lambda: filled)

    def close(self) -> None:
        self.closed = True


def contender(name: str, ready: Imagined) -> GpuContender:
    return GpuContender(name, lambda _progress: ready)


def broken(name: str, error: BaseException) -> GpuContender:
    def prepare(_progress: Any) -> Any:
        raise error

    return GpuContender(name, prepare)


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
    return Recorder(report, report_paths(folder, GPU.name))


def read(folder: Path) -> GpuReport:
    return msgspec.json.decode((folder / "nvidia-imagined-x.json").read_bytes(), type=GpuReport)


def test_whoever_fails_is_a_line_that_says_why(tmp_path: Path) -> None:
    told: list[str] = []
    good = Imagined(level=7)
    absent = Imagined(refuses=lambda _s: True)
    everyone = [
        broken("absent", EngineError("no CUDA here: install it\nsecond line")),
        contender("refuses all", absent),
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
    assert by_name["refuses all"].why == "no graph at batch 1"
    assert absent.closed
    assert by_name["first"].why is None
    assert by_name["first"].levels is None  # the others are compared with it
    assert by_name["graphless"].levels == 2
    assert {m.levels for m in report.measurements if m.contender == "first"} == {0}
    assert len(report.measurements) == 16
    facts = json.loads((tmp_path / "nvidia-imagined-x.json").read_text())
    setting = {"batch": 1, "side": 32, "transfers": False, "cuda_graph": True}
    assert facts["measurements"][0]["setting"] == setting  # for programs
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
    assert any("[1/5] absent" in line for line in told)
    assert any("takes no part: no CUDA here" in line for line in told)
    assert sum("p50" in line for line in told) == 14
    text = (tmp_path / "nvidia-imagined-x.md").read_text()
    assert "| absent | takes no part: no CUDA here: install it |" in text
    assert "ValueError: a \\| bar" in text
    assert "none (1)" in text
    assert "\n1. no graph at batch 2\n" in text


def test_a_run_that_fills_something_else_has_no_time(tmp_path: Path) -> None:
    """Such as a CUDA graph of another shape, which is replayed in no time."""
    stale = Imagined(wrong=lambda setting: setting.cuda_graph and setting.batch == 2)
    everyone = [contender("first", Imagined()), contender("stale", stale)]
    measure_all(everyone, recorder(tmp_path), SMALL, lambda _step: None)
    measured = read(tmp_path).measurements
    wrong = [m for m in measured if m.contender == "stale" and m.why]
    assert [(m.setting.batch, m.setting.cuda_graph) for m in wrong] == [(2, True)] * 2
    assert {m.why for m in wrong} == {
        "its fill is 33 of 255 off the first contender's: it is another"
    }
    assert all(m.p50 is None for m in wrong)
    assert all(m.p50 for m in measured if m.why is None)
    # Nobody else's fill is at hand to tell that the first one's own are wrong, but its own are.
    alone = tmp_path / "alone"
    alone.mkdir()
    measure_all([contender("stale", stale)], recorder(alone), SMALL, lambda _step: None)
    assert sum(m.why is not None for m in read(alone).measurements) == 2


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
        contender="a",
        setting=setting,
        rounds=9,
        p50=0.9124,
        p99=1.5,
        images_per_second=1096.0,
        levels=3,
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
    method = "\n".join(METHOD)
    for word in ("wall-clock", "images a second", "With transfers", "On the GPU", "caches", "TF32"):
        assert word in method
    assert markdown(report) == (
        "# NVIDIA Imagined X\n\n"
        "Compute capability 9.0, 141 GiB, driver 580.1, CUDA 13.0; torch 2.13.\n\n"
        "the network. Begun 2026-01-01; at most 9 rounds each. "
        "uint8 image and hole mask in, composited uint8 image out.\n\n"
        f"{method}\n\n"
        "| contender | runs on | against its graph | levels off | s to build |\n"
        "|---|---|---|---|---|\n"
        "| a | x | y | 3 | 2.2 |\n\n"
        "*Levels off*: the most that a byte differs from the first contender's fill of the same "
        "photo, at any setting. A fill that is far off has no time.\n\n"
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
    with pytest.raises(
        UsageError, match="no contender matches --only; available: tensorrt, fp16; PyTorch eag"
    ):
        chosen(everyone, ["tensorflow"])


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
    assert (
        by_name["PyTorch eager, fp32, collapsed"].runs_on == f"torch {torch.__version__} on the CPU"
    )
    assert (by_name["PyTorch eager, fp16 channels-last, collapsed"].levels or 0) <= 2
    for name in ("onnxruntime-cuda, fp16", "tensorrt, fp16", "torch.compile max-autotune"):
        left_out = [p for p in report.participants if p.name.startswith(name)]
        assert left_out
        assert all(one.why for one in left_out)
    measured = [m for m in report.measurements if m.p50]
    assert len(measured) == 4 * 4
    reasons = {m.why for m in report.measurements if m.why}
    assert reasons == {"CUDA graphs need a GPU"}
    assert set(by_name) == {c.name for c in contenders(checkpoint, checkpoint, tmp_path, "cpu", [])}
    with pytest.raises(UsageError, match=r"cpu-only\.md already exists; pass --overwrite"):
        make_report(tmp_path / "out", SMALL, checkpoint=checkpoint, device="cpu")


def test_without_a_gpu_it_says_so_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pconv_deploy.benchmark.gpu.report", "--output"]
    done = subprocess.run(
        [*command, str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert done.returncode in (EngineError.exit_code, 6), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
