"""How a run ends that does not end well, and what the next one finds."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.errors import UsageError
from pconv_deploy.training.config import TrainingConfig, override_config
from pconv_deploy.training.loop import train
from pconv_deploy.training.run_folder import RunFolder
from tests.processes import wait_until
from tests.training.runs import ENDLESS, begin, finish, group_of, has_ended

Make = Callable[..., TrainingConfig]
ONE_STEP = "phases=[{steps=1, learning_rate=1e-3}]"

# Like `pconv-deploy`, but killed when the run's network is about to be replaced.
KILLED = """
import os, signal, sys
sys.argv[1:3] = []  # -m pconv_deploy
from pconv_deploy.cli.main import main
from pconv_deploy.training.run_folder import RunFolder
publish = RunFolder.publish
def killed(run, step):
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    publish(run, step)
RunFolder.publish = killed
main()
"""


def begun(run: Path, photos: Path, *settings: str) -> subprocess.Popen[str]:
    """A run that does not end by itself, with workers, past its first steps."""
    process = begin(run, photos, ENDLESS, "save_every=100000", "data.workers=2", *settings)
    wait_until(RunFolder(run).history_file.is_file, process, seconds=100)
    return process


def test_a_run_whose_folder_goes_ends_and_so_do_its_workers(photos: Path, tmp_path: Path) -> None:
    process = begun(tmp_path / "run", photos)
    assert len(group_of(process)) == 3
    for _ in range(2):  # the first may lose a race against a file that is just written
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    code, complaint = finish(process)
    assert code == 7, complaint
    assert "Traceback" not in complaint
    assert f"cannot write {tmp_path / 'run'}" in complaint
    assert has_ended(process)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("most_bytes", [1000, 30_000])  # of TensorBoard's file; of the state
def test_a_run_whose_disk_is_full_ends_and_so_do_its_workers(
    photos: Path, tmp_path: Path, most_bytes: int
) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    process = begin(
        *(tmp_path / "run", photos, ENDLESS, "data.workers=2"),
        *("network={channels=[16,32], kernels=[3,3]}", "pictures_every=100000"),
        preexec_fn=small_files_only,
    )
    code, complaint = finish(process)
    assert code == 7, complaint
    assert "Traceback" not in complaint
    assert "cannot write" in complaint
    assert has_ended(process)


@pytest.mark.parametrize(
    ("number", "pause", "expected"),
    [
        (signal.SIGTERM, None, 143),
        (signal.SIGINT, 0.02, 130),  # twice at once: the same request, the run is saved
        (signal.SIGINT, 2.0, 130),
    ],
)
def test_signals_to_all_processes_end_a_run_cleanly(
    photos: Path, tmp_path: Path, number: int, pause: float | None, expected: int
) -> None:
    process = begun(tmp_path / "run", photos)
    os.killpg(process.pid, number)
    if pause is not None:
        time.sleep(pause)
        if process.poll() is None:
            os.killpg(process.pid, number)
    code, complaint = finish(process)
    assert code == expected, complaint
    assert "Traceback" not in complaint
    assert has_ended(process)
    if pause is None or pause < 1:
        assert len(RunFolder(tmp_path / "run").checkpoints()) == 1


def test_a_killed_worker_ends_the_run(photos: Path, tmp_path: Path) -> None:
    process = begun(tmp_path / "run", photos)
    worker = max(number for number in group_of(process) if number != process.pid)
    os.kill(worker, signal.SIGKILL)
    code, complaint = finish(process)
    assert code == 9, complaint
    assert "Traceback" not in complaint
    assert "a worker process that reads pictures ended with -9" in complaint
    assert "lower --set data.workers" in complaint
    assert has_ended(process)


def test_a_second_process_is_refused(photos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = begun(run.path, photos, "save_every=1")
    try:
        with pytest.raises(UsageError, match="another process is training in"):
            train(run.config_to_resume(), run.path, resume=True)
        with pytest.raises(UsageError, match="is in use"):
            train(run.config_to_resume(), run.path)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    # Its workers may still live: they hold nothing that a resume needs.
    train(override_config(run.config_to_resume(), [ONE_STEP]), run.path, resume=True)


def test_a_resume_repairs_the_network_of_a_killed_run(photos: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    process = begin(run.path, photos, "save_every=2", launcher=("-c", KILLED))
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert max(run.checkpoints()) == 6
    assert steps_of(run.path / "network.safetensors") == 4
    finished = "phases=[{steps=6, learning_rate=1e-3}]"  # nothing is left to train
    train(override_config(run.config_to_resume(), [finished]), run.path, resume=True)
    assert steps_of(run.path / "network.safetensors") == 6


def steps_of(network: Path) -> object:
    return load_checkpoint(network).source.training["steps"]


def test_a_run_goes_on_from_another_folder(
    small: Make, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "a" / "photos")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    train(small("data.photos=photos"), Path("run"))
    monkeypatch.chdir(tmp_path / "b")
    run = RunFolder(Path("../a/run"))
    longer = override_config(run.config_to_resume(), ["phases=[{steps=9, learning_rate=1e-3}]"])
    train(longer, run.path, resume=True)
    assert steps_of(run.path / "network.safetensors") == 9


def test_what_killed_runs_left_is_cleared_and_other_files_stay(small: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()  # a run that was killed before it wrote its settings
    (run / f".{'0' * 32}.partial.json").touch()
    train(small(), run)
    half = [
        run / f".{'1' * 32}.partial.safetensors",
        run / "checkpoints" / f".{'2' * 32}.partial" / "new" / "state.pt",
        run / "checkpoints" / "step-00000007" / "network.safetensors",
    ]
    kept = [run / "checkpoints" / "best" / "network.safetensors", run / "notes.txt"]
    for path in half + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    history = RunFolder(run).history_file
    history.write_text(history.read_text() + '12\n{"step": "x"}\n\x00\x00\n{"step": 4, "lo')
    train(small(), run, resume=True)
    left = {path.relative_to(run) for path in run.rglob("*")}
    assert not {path for path in left if ".partial" in str(path) or path.name == ".lock"}
    assert not half[2].parent.exists()
    assert all(path.exists() for path in kept)
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == [2, 4, 6, 8]
