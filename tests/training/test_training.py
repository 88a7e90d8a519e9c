import os
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor

from pconv_deploy.checkpoints.native import load_checkpoint
from pconv_deploy.errors import InputError, OutputError, TrainingError, UsageError
from pconv_deploy.export.checkpoint_to_onnx import ExportOptions, export_checkpoint
from pconv_deploy.training.config import TrainingConfig
from pconv_deploy.training.loop import train
from pconv_deploy.training.losses import inpainting_loss
from pconv_deploy.training.run_folder import RunFolder
from pconv_deploy.training.samples import Samples, collate
from pconv_deploy.training.trainer import Trainer, phase_at
from tests.processes import wait_until
from tests.training.runs import ENDLESS, begin, finish

Make = Callable[..., TrainingConfig]
FIXED_SIZE = ExportOptions(batch=1, size=(32, 48))


def state_of(run: Path, step: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(RunFolder(run).checkpoint(step) / "state.pt")
    return state


def tensors_in(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, Mapping) else state
    return [
        t
        for value in values
        if not isinstance(value, str | int | float | None)
        for t in tensors_in(value)
    ]


def require_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    pairs = list(zip(tensors_in(first), tensors_in(second), strict=True))
    assert len(pairs) > 50
    assert all(torch.equal(a, b) for a, b in pairs)


def without_speed(run: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in line.items() if k != "pictures/s"} for line in RunFolder(run).history()
    ]


def interrupt_at(step: int) -> Callable[[int, int, Mapping[str, float]], None]:
    def report(at: int, _of: int, _figures: Mapping[str, float]) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def test_a_run_leaves_a_network_that_exports(small: Make, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(photos, tmp_path / "held-out")
    network = train(small(f"data.validation={tmp_path / 'held-out'}"), run)
    assert network == run / "network.safetensors"
    stored = load_checkpoint(network)
    assert stored.source.training == {"steps": 8, "pictures": 6, "seed": 0, "size": 16}
    assert list(RunFolder(run).checkpoints()) == [3, 6, 8]
    history = RunFolder(run).history()
    assert [line["step"] for line in history] == [2, 4, 6, 8]
    assert sum(line.get("unreadable pictures", 0) for line in history) in (5, 6)
    assert [line["step"] for line in history if "validation PSNR (dB)" in line] == [4, 8]
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "history.png").read_bytes().startswith(b"\x89PNG")
    result = export_checkpoint(network, tmp_path / "model.onnx", FIXED_SIZE)
    assert not result.parity.failures()


def test_an_interrupted_run_ends_with_the_same_bits(small: Make, tmp_path: Path) -> None:
    config = small("data.workers=2", "micro_batches=2")
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=interrupt_at(4))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", resume=True, progress=interrupt_at(6))
    assert list(RunFolder(tmp_path / "parts").checkpoints())[-1] == 6
    train(config, tmp_path / "parts", resume=True)
    require_same(state_of(tmp_path / "whole", 8), state_of(tmp_path / "parts", 8))
    assert without_speed(tmp_path / "whole") == without_speed(tmp_path / "parts")
    whole, parts = (load_file(tmp_path / r / "network.safetensors") for r in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_steps_beyond_the_last_checkpoint_are_done_again(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    train(config, tmp_path / "whole")
    full = OSError(28, "No space left on device")

    def save_half(_state: object, stream: Any) -> None:
        stream.write(b"half")
        raise full

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, progress=interrupt_at(4))
    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(OutputError, match="No space left on device"):
        train(config, run, resume=True)
    assert list(RunFolder(run).checkpoints()) == [3, 4]
    assert [line["step"] for line in RunFolder(run).history()] == [2, 4, 6]
    monkeypatch.undo()
    train(config, run, resume=True)
    require_same(state_of(tmp_path / "whole", 8), state_of(run, 8))
    assert without_speed(tmp_path / "whole") == without_speed(run)


def test_frozen_norms_stay_as_they_are(small: Make, tmp_path: Path) -> None:
    train(small("save_every=4", "ema=0.5"), tmp_path / "run")
    before, after = (state_of(tmp_path / "run", step)["network"] for step in (4, 8))
    for name in before:
        if "num_batches" in name:
            continue
        frozen = name.startswith("encoder") and ".norm." in name
        assert torch.equal(before[name], after[name]) is frozen, name


def test_parts_of_a_batch_give_the_gradient_of_the_whole(small: Make, tmp_path: Path) -> None:
    # One level has no batch norm, whose statistics are those of each part.
    one_level = ("network={channels=[4], kernels=[3]}", "phases=[{steps=3, learning_rate=1e-3}]")
    for parts in (1, 4):
        train(small(*one_level, f"micro_batches={parts}"), tmp_path / str(parts))
    whole, split = (state_of(tmp_path / p, 3)["network"] for p in ("1", "4"))
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, split[name], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def spoilt(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        loss, terms = inpainting_loss(*arguments, **options)
        return (loss * float("nan") if len(calls) == 6 else loss), terms

    monkeypatch.setattr("pconv_deploy.training.trainer.inpainting_loss", spoilt)
    run, config = tmp_path / "run", small()
    kept = run / "failed-step-5-rank-0.safetensors"
    with pytest.raises(TrainingError, match=rf"step 5: the loss is not finite: .*{kept.name}"):
        train(config, run)
    assert list(RunFolder(run).checkpoints()) == [3]
    samples = Samples(config.data, config.holes, config.seed)
    expected = collate([samples[k] for k in range(20, 24)])
    stored = load_file(kept)
    assert torch.equal(stored["image.0"], expected["image"])
    assert torch.equal(stored["known.0"].bool(), expected["known"])
    monkeypatch.undo()
    train(config, run, resume=True)  # from step 3 on


def test_pictures_that_vanish_lose_no_step(small: Make, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)

    def vanish(*_: object) -> None:
        for path in copy.iterdir():
            path.unlink(missing_ok=True)

    with pytest.raises(InputError, match="step 2: 50 images in a row cannot be read"):
        train(small(f"data.photos={copy}"), tmp_path / "run", progress=vanish)
    assert list(RunFolder(tmp_path / "run").checkpoints()) == [2]


def test_half_precision_keeps_masks_and_weights_exact(small: Make) -> None:
    config = small("precision=bf16", "network={channels=[4,6,8], kernels=[7,3,3]}")
    trainer = Trainer(config, Fabric(accelerator="cpu", precision="bf16-mixed"))
    seen = []
    for block in (*trainer.network.encoder, *trainer.network.decoder):
        block.register_forward_hook(lambda _m, _i, o: seen.append((o[0].dtype, o[1])))
    samples = Samples(config.data, config.holes, config.seed)
    batch = collate([samples[k] for k in range(4)])
    trainer.train_step([batch])
    low = seen.copy()
    seen.clear()
    trainer.network.float()(batch["image"] / 255, batch["known"].float())
    assert {dtype for dtype, _ in low} == {torch.bfloat16}
    for (_, mask), (_, exact) in zip(low, seen, strict=True):
        assert torch.equal(mask.float(), exact)
    assert all(p.dtype == torch.float32 for p in trainer.network.parameters())


@pytest.mark.parametrize(
    "overrides", [("precision=bf16", "channels_last=true"), ("network.convolution=ordinary",)]
)
def test_other_ways_to_train(small: Make, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    longer = "phases=[{steps=80, learning_rate=1e-2}]"
    network = train(small(longer, "save_every=80", "log_every=20", *overrides), tmp_path / "run")
    holes = [line["hole"] for line in RunFolder(tmp_path / "run").history()]
    assert holes[-1] < 0.8 * holes[0]
    assert not export_checkpoint(network, tmp_path / "model.onnx", FIXED_SIZE).parity.failures()


def test_the_learning_rate_follows_the_phases(small: Make) -> None:
    config = small(
        "phases=[{steps=4, learning_rate=1.0, schedule='cosine'}, {steps=2, learning_rate=0.5}]"
    )
    trainer = Trainer(config, Fabric(accelerator="cpu"))
    rates = []
    for trainer.step in range(6):
        trainer._enter_phase()
        rates.append(trainer._adam.param_groups[0]["lr"])
    assert rates == pytest.approx([1, 0.853553, 0.5, 0.146447, 0.5, 0.5], abs=1e-6)
    assert phase_at(config, 5) == (config.phases[1], 1)


def test_settings_that_do_not_go_together(small: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needed a multiple of 3, the number of ranks"):
        train(small("micro_batches=3"), tmp_path / "run")
    with pytest.raises(UsageError, match="--vgg16, or omit these terms"):
        train(small("loss.features=vgg16"), tmp_path / "run")
    with pytest.raises(InputError, match=r"/none.pth does not exist\. Needed: torchvision's vgg16"):
        train(small("loss.features=vgg16", "loss.vgg16=/none.pth"), tmp_path / "run")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        train(small("precision=fp16", "accelerator=cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_and_a_damaged_run(small: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="is no training run"):
        RunFolder(run).config_to_resume()
    train(small(), run)
    with pytest.raises(UsageError, match="is in use; continue its run with --resume"):
        train(small(), run)
    assert RunFolder(run).config_to_resume() == small()
    with pytest.raises(InputError, match=r"from another network"):
        train(small("network={channels=[4,7], kernels=[3,3]}"), run, resume=True)
    # Averaging may begin or end later, and a finished run may be finished again.
    train(small("ema=null"), run, resume=True)
    state = RunFolder(run).checkpoint(8) / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"state.pt is damaged.*\n.* remove .*step-00000008"):
        train(small(), run, resume=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="holds no checkpoint;"):
        train(small(), run, resume=True)


def has_reached(run: RunFolder, step: int) -> bool:
    return max([0, *run.checkpoints()]) >= step


def test_kill_9_never_loses_the_last_checkpoint(photos: Path, tmp_path: Path) -> None:
    endless = (ENDLESS, "save_every=1", "log_every=1000")
    run = RunFolder(tmp_path / "run")
    reached = [0]
    for attempt in range(2):
        process = begin(run.path, photos, *endless, resume=attempt > 0)
        wait_until(partial(has_reached, run, reached[-1] + 4), process, seconds=100)
        process.kill()
        process.communicate()
        assert list(run.checkpoints())  # whole ones only
        reached.append(max(run.checkpoints()))
        state_of(run.path, reached[-1])
        load_checkpoint(run.checkpoint(reached[-1]) / "network.safetensors")
        load_checkpoint(run.path / "network.safetensors")
    assert reached[0] < reached[1] < reached[2]


def test_two_ranks_learn_what_one_learns(small: Make, photos: Path, tmp_path: Path) -> None:
    # One level has no batch norm, whose statistics are those of each rank's part.
    one_level = ("network={channels=[4], kernels=[3]}", "phases=[{steps=3, learning_rate=1e-3}]")
    train(small(*one_level), tmp_path / "1")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2")
    code, complaint = finish(begin(tmp_path / "2", photos, *one_level, launcher=launcher))
    assert code == 0, complaint
    assert complaint.count("step 3/3") == 1  # one rank reports
    alone, together = (state_of(tmp_path / r, 3)["network"] for r in ("1", "2"))
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-4, atol=1e-6)
    first, second = (RunFolder(tmp_path / r).history()[-1]["loss"] for r in ("1", "2"))
    assert first == pytest.approx(second, rel=1e-4)

    with pytest.raises(UsageError, match=r"was trained by 2 ranks, now there are 1\."):
        train(small(*one_level), tmp_path / "2", resume=True)
