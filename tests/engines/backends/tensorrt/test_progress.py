"""How far a build is, and how it is stopped."""

import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from pconv_deploy.cli import build_progress
from pconv_deploy.engines.backends.tensorrt.options import TensorRtOptions
from pconv_deploy.engines.backends.tensorrt.progress import PartDone, Phases
from pconv_deploy.engines.folder import BuildOptions, build_engine
from tests.engines.backends.tensorrt.conftest import SMALL

OPTIONS = BuildOptions(backend="tensorrt", backend_options=TensorRtOptions(profiles=(SMALL,)))


def test_phases_add_up_to_one_share() -> None:
    phases = Phases()
    phases.start("whole", None, 4)
    assert phases.share() == 0
    phases.start("part", "whole", 2)
    phases.step("part", 0)
    assert phases.share() == pytest.approx(1 / 8)
    phases.start("within", "part", 10)
    phases.step("within", 4)
    assert phases.share() == pytest.approx(1 / 4 * (1 + 5 / 10) / 2)
    phases.finish("within")
    phases.step("part", 1)
    phases.finish("part")
    phases.step("whole", 0)
    assert phases.share() == pytest.approx(1 / 4)
    phases.start("part", "whole", 0)  # TensorRT knows of phases without steps
    assert phases.share() == pytest.approx(1 / 4)
    phases.step("whole", 3)
    assert phases.share() == 1


def test_the_share_never_falls() -> None:
    phases = Phases()
    phases.start("whole", None, 2)
    phases.step("whole", 0)
    assert phases.share() == 0.5
    phases.finish("whole")
    phases.start("whole", None, 2)  # it begins anew
    assert phases.share() == 0.5
    phases.step("unknown", 0)
    phases.finish("unknown")


@pytest.mark.usefixtures("tensorrt")
def test_a_build_tells_how_far_it_is(graph: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    manifest = build_engine(graph, tmp_path / "x.engine", OPTIONS, progress=steps.append)
    shares = [step.share for step in steps if isinstance(step, PartDone)]
    assert len(shares) > 20
    assert shares == sorted(shares)
    assert shares[-1] > 0.7
    assert any(step.startswith("TensorRT: ") and " %, " in step for step in steps)
    assert steps[0] == "reading the graph"
    assert not any("compared" in step for step in steps)  # what was not, its manifest says
    assert (manifest.not_compared or "").startswith("no NVIDIA driver")


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def fail() -> NoReturn:
    raise ZeroDivisionError


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(
    ("stop", "raised"), [(press_ctrl_c, KeyboardInterrupt), (fail, ZeroDivisionError)]
)
def test_a_build_can_be_stopped(
    graph: Path, tmp_path: Path, stop: Callable[[], None], raised: type[BaseException]
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def progress(step: str) -> None:
        if isinstance(step, PartDone) and step.share > 0.3:
            told.append(step)
            stop()

    told: list[PartDone] = []
    with pytest.raises(raised):
        build_engine(graph, tmp_path / "x.engine", OPTIONS, progress=progress)
    assert told
    assert told[-1].share < 0.9
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before
    build_engine(graph, tmp_path / "x.engine", OPTIONS)  # and it is none the worse for it


@pytest.mark.usefixtures("tensorrt")
def test_in_another_thread_signals_are_left_alone(graph: Path, tmp_path: Path) -> None:
    seen: list[object] = []

    def progress(_step: str) -> None:
        seen.append(signal.getsignal(signal.SIGINT))

    arguments = {"progress": progress}
    thread = threading.Thread(
        target=build_engine, args=(graph, tmp_path / "x.engine", OPTIONS), kwargs=arguments
    )
    thread.start()
    thread.join()
    assert (tmp_path / "x.engine" / "engine.plan").is_file()
    assert set(seen) == {signal.getsignal(signal.SIGINT)}


def test_on_a_terminal_notes_stay_and_steps_go(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        build_progress,
        "ERR",
        Console(file=screen, force_terminal=True, highlight=False, width=80, soft_wrap=True),
    )
    note = "note: 6 % of the convolutions' work is in fp16, needed 90 %; " + "found [17] in fp32"
    with build_progress.building() as show:
        show("building")
        show(note)
        show("finishing")
    lines = screen.getvalue().splitlines()
    assert note in "".join(lines)


def test_where_nobody_watches_a_tenth_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with build_progress.building() as show:
        show("reading")
        for percent in range(100):
            show(PartDone(f"TensorRT: {percent} %, [tactics]", percent / 100))
        show("comparing")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["reading", "TensorRT: 0 %, [tactics]", "TensorRT: 10 %, [tactics]"]
    assert lines[-2:] == ["TensorRT: 90 %, [tactics]", "comparing"]
    assert len(lines) == 12
