"""The training loop: on a CPU, a GPU, or many of them through torchrun."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric

from pconv_deploy.contract import JsonScalar
from pconv_deploy.errors import InputError, TrainingError, UsageError
from pconv_deploy.training.config import TrainingConfig, with_absolute_paths
from pconv_deploy.training.loading import batches
from pconv_deploy.training.recorder import Recorder
from pconv_deploy.training.run_folder import NETWORK, STATE, RunFolder
from pconv_deploy.training.samples import Batch, Samples, StepSampler, validation_batch
from pconv_deploy.training.trainer import Trainer
from pconv_deploy.training.vgg import VGG16_FILE, Vgg16Features, load_vgg16

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_TERMINATED = 143
_SAME_REQUEST = 1.0  # seconds in which repeated signals count as one
Progress = Callable[[int, int, Mapping[str, float]], None]


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    any_ranks: bool = False,
    progress: Progress = lambda _step, _of, _figures: None,
) -> Path:
    """Train a network; write everything to `folder`.

    Args:
        config: the settings; to resume, those of the run (`RunFolder.config_to_resume`).
        folder: of the run, see `run_folder`.
        resume: continue from the last checkpoint. On a CPU the weights are bit-identical to
            those of an uninterrupted run.
        any_ranks: allow resuming with another number of ranks, which changes the batch norms'
            statistics.
        progress: called with the steps done, the total, and the metrics since the last call.

    Returns:
        The network's checkpoint file.

    Raises:
        UsageError: incompatible settings, or the folder is in use.
        InputError: no usable images or masks, a damaged run, no VGG-16 weights.
        TrainingError: the loss is not finite (the batch is kept), or a worker process was killed.
        OutputError: the run's folder is not writable, or the disk is full.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM; with one rank after a checkpoint
            was written.
    """
    fabric = _fabric(config)
    _check_batch(config, fabric.world_size)
    run, vgg = RunFolder(folder), _vgg16(config)
    samples = Samples(config.data, config.holes, config.seed)
    if failure := samples[0]["failure"]:
        raise InputError(failure)  # before the folder is created
    validation = validation_batch(config.data, config.seed)
    trainer = Trainer(config, fabric, vgg)
    facts: dict[str, JsonScalar] = {
        "pictures": len(samples.pictures),
        "seed": config.seed,
        "size": config.data.size,
    }
    recorder = Recorder(trainer, run, validation, facts)
    with run.claimed(resume=resume) if fabric.is_global_zero else nullcontext():
        if resume:
            _resume(trainer, run, any_ranks)
        if fabric.is_global_zero:
            run.begin(with_absolute_paths(config))
        fabric.barrier()
        with _stopping(fabric.world_size) as stop, recorder:
            _steps(trainer, samples, recorder, stop, progress)
            recorder.save()
            recorder.plot()
    if stop:
        raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(_TERMINATED)
    return folder / NETWORK


def _steps(
    trainer: Trainer, samples: Samples, recorder: Recorder, stop: list[int], progress: Progress
) -> None:
    config, fabric = trainer.config, trainer.fabric
    sampler = StepSampler(config, trainer.step, fabric.global_rank, fabric.world_size)
    with batches(samples, sampler, pin_memory=fabric.device.type == "cuda") as waiting:
        while trainer.step < config.steps and not stop:
            _step(trainer, list(islice(waiting, config.micro_batches)), recorder, progress)


def _step(
    trainer: Trainer, step_batches: list[Batch], recorder: Recorder, progress: Progress
) -> None:
    config = trainer.config
    failure = next((b["failure"] for b in step_batches if b["failure"]), "")
    if failure:
        if trainer.fabric.world_size == 1:  # saving is collective: other ranks would not join
            recorder.save()
        raise InputError(f"step {trainer.step}: {failure}")
    try:
        terms = trainer.train_step(step_batches)
    except TrainingError as error:
        raise recorder.failed(error, step_batches) from None
    recorder.count(terms, sum(b["skipped"] for b in step_batches))
    done = trainer.step == config.steps
    show = trainer.step % config.pictures_every == 0 or done
    if show or trainer.step % config.log_every == 0:
        figures = recorder.report(step_batches[0] if show else None)
        progress(trainer.step, config.steps, figures)
    if trainer.step % config.save_every == 0 and not done:
        recorder.save()


def _fabric(config: TrainingConfig) -> Fabric:
    """Set up Fabric for one process, or for those that torchrun started."""
    local, everywhere = (int(os.environ.get(k, "1")) for k in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    accelerator = config.accelerator
    gpus = torch.cuda.device_count()
    if accelerator == "auto":
        accelerator = "cuda" if gpus else "cpu"
    if accelerator == "cuda" and gpus < local:
        raise UsageError(f"found {gpus} GPUs for {local} processes; needed one GPU per process")
    if config.precision == "fp16" and accelerator == "cpu":
        raise UsageError("precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=max(1, everywhere // local),
        strategy="ddp" if everywhere > 1 else "auto",
        precision=_PRECISIONS[config.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _check_batch(config: TrainingConfig, ranks: int) -> None:
    parts = ranks * config.micro_batches
    if config.batch % parts:
        raise UsageError(
            f"found batch {config.batch}; needed a multiple of {parts}, the number of ranks "
            f"({ranks}) times micro_batches ({config.micro_batches})"
        )


def _vgg16(config: TrainingConfig) -> Vgg16Features | None:
    if config.loss.features == "none":
        if config.loss.vgg16 is not None:
            raise UsageError(
                "--vgg16 is given, but these settings omit the terms that use it: add "
                "--set loss.features=vgg16"
            )
        return None
    if config.loss.vgg16 is None:
        raise UsageError(
            f"the perceptual and style losses need torchvision's {VGG16_FILE}: pass it with "
            "--vgg16, or omit these terms (blurrier fills) with --set loss.features=none"
        )
    return load_vgg16(config.loss.vgg16)


def _resume(trainer: Trainer, run: RunFolder, any_ranks: bool) -> None:
    # Rank 0 decides: on a shared disk other ranks may see an older state of the folder.
    last = trainer.fabric.broadcast(max(run.checkpoints(), default=None))
    if last is None:
        if (run.path / NETWORK).exists():
            raise InputError(
                f"{run.path / 'checkpoints'} holds no checkpoint; start a new run in another folder"
            )
        return  # interrupted before the first checkpoint
    ranks = trainer.load(run.checkpoint(last) / STATE)
    if ranks != trainer.fabric.world_size and not any_ranks:
        raise UsageError(
            f"{run.path} was trained by {ranks} ranks, now there are {trainer.fabric.world_size}. "
            f"Start the same number, or pass --any-ranks: the order of images stays, but batch "
            "norms see other parts of each batch"
        )


@contextmanager
def _stopping(ranks: int) -> Iterator[list[int]]:
    """Record the first SIGINT or SIGTERM, so that the run is saved; a second one ends it at once.

    Signals within one second count as one: some shells and launchers send them twice. With several
    ranks signals are not handled, since each rank would stop at another step.
    """
    received: list[int] = []
    if ranks > 1:
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first = 0.0

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
        elif time.monotonic() > first + _SAME_REQUEST:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
