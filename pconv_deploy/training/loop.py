"""The training loop: on a CPU, a GPU, or many of them through torchrun."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pconv_deploy.contract import JsonScalar
from pconv_deploy.errors import InputError, OutputError, TrainingError, UsageError
from pconv_deploy.files import atomic_file, atomic_folder
from pconv_deploy.training.config import TrainingConfig
from pconv_deploy.training.monitor import Monitor, picture_grid, plot_history, validation_score
from pconv_deploy.training.run_folder import NETWORK, STATE, RunFolder
from pconv_deploy.training.samples import Batch, Samples, StepSampler, loader, validation_batch
from pconv_deploy.training.trainer import Trainer
from pconv_deploy.training.vgg import VGG16_FILE, Vgg16Features, load_vgg16

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_TERMINATED = 143
Progress = Callable[[int, int, Mapping[str, float]], None]


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    any_ranks: bool = False,
    progress: Progress = lambda _step, _of, _figures: None,
) -> Path:
    """Train a network; everything lands in `folder`.

    Args:
        config: the settings; of a run that is resumed, its own (`RunFolder.config_to_resume`).
        folder: of the run, see `run_folder`.
        resume: go on from the last checkpoint. On a CPU the weights become bit for bit those of
            a run that was never interrupted.
        any_ranks: resume with another number of ranks than before, which changes the batch
            norms' statistics.
        progress: is told the steps done, their number, and the figures since the last report.

    Returns:
        The network's checkpoint file.

    Raises:
        UsageError: settings that do not go together, a folder in use.
        InputError: no pictures or masks that can be used, a damaged run, no VGG-16 weights.
        TrainingError: the loss is not finite; the batch is kept.
        OutputError: the run's folder is not writable, or the disk is full.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM; with one rank after a checkpoint
            was written.
    """
    fabric = _fabric(config)
    _check_batch(config, fabric.world_size)
    run, vgg = RunFolder(folder), _vgg16(config)
    samples = Samples(config.data, config.holes, config.seed)
    if failure := samples[0]["failure"]:
        raise InputError(failure)  # before a folder is made for nothing
    validation = validation_batch(config.data, config.seed)
    trainer = Trainer(config, fabric, vgg)
    if resume:
        _resume(trainer, run, any_ranks)
    if fabric.is_global_zero:
        run.begin(config, resume=resume)
    fabric.barrier()
    recorder = _Recorder(
        trainer, run, validation, {"pictures": len(samples.pictures), "seed": config.seed}
    )
    with _stopping(fabric.world_size) as stop, recorder:
        _steps(trainer, samples, recorder, stop, progress)
        recorder.save()
        recorder.plot()
    if stop:
        raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(_TERMINATED)
    return folder / NETWORK


def _steps(
    trainer: Trainer, samples: Samples, recorder: "_Recorder", stop: list[int], progress: Progress
) -> None:
    config, fabric = trainer.config, trainer.fabric
    sampler = StepSampler(config, trainer.step, fabric.global_rank, fabric.world_size)
    batches = iter(loader(samples, sampler, pin_memory=fabric.device.type == "cuda"))
    while trainer.step < config.steps and not stop:
        step_batches: list[Batch] = list(islice(batches, config.micro_batches))
        failure = next((b["failure"] for b in step_batches if b["failure"]), "")
        if failure:
            if fabric.world_size == 1:  # the others would wait for this rank, not save
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


@dataclass
class _Recorder:
    """Counts, reports and saves; what it writes, the first rank alone writes."""

    trainer: Trainer
    run: RunFolder
    validation: Batch | None
    facts: dict[str, JsonScalar]
    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    skipped: int = 0
    since: float = 0.0
    monitor: Monitor | None = None

    @property
    def leads(self) -> bool:
        return self.trainer.fabric.is_global_zero

    def __enter__(self) -> None:
        if self.leads:
            self.run.forget_history_after(self.trainer.step)
            self.monitor = Monitor(self.run.tensorboard, self.trainer.step)
        self.since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.monitor:
            self.monitor.close()

    def count(self, terms: Mapping[str, Tensor], skipped: int) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.steps += 1
        self.skipped += skipped

    def report(self, shown: Batch | None) -> dict[str, float]:
        """The figures since the last report, averaged over steps and ranks.

        With a batch to be shown also pictures; the validation folder's and their score, if any.
        """
        trainer, fabric = self.trainer, self.trainer.fabric
        config = trainer.config
        totals = torch.stack(
            [*self.sums.values(), torch.tensor(float(self.skipped)).to(fabric.device)]
        )
        averages = fabric.all_reduce(totals, reduce_op="mean")
        assert isinstance(averages, Tensor)
        figures = dict(zip(self.sums, (averages[:-1] / self.steps).tolist(), strict=True))
        now = time.perf_counter()
        figures["pictures/s"] = config.batch * self.steps / (now - self.since)
        if skipped := round(float(averages[-1]) * fabric.world_size):
            figures["unreadable pictures"] = skipped
        self.sums, self.steps, self.skipped = {}, 0, 0
        if self.monitor:
            if shown:
                figures |= self._show(self.monitor, shown)
            self.monitor.scalars(trainer.step, figures)
            self.run.append_history({"step": trainer.step, **figures})
        self.since = time.perf_counter()
        return figures

    def _show(self, monitor: Monitor, batch: Batch) -> dict[str, float]:
        """Paint once, for the pictures and for the score."""
        shown = self.validation or batch
        image, known = shown["image"] / 255, shown["known"].float()
        painted = self.trainer.paint(shown)
        monitor.pictures(self.trainer.step, picture_grid(image, known, painted))
        return validation_score(image, known, painted) if self.validation else {}

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; then forget older ones."""
        trainer, run = self.trainer, self.run
        place = run.checkpoint(trainer.step)
        if self.leads and trainer.step not in run.checkpoints():
            with atomic_folder(place, overwrite=True, replaceable=lambda _: True) as fresh:
                trainer.save(fresh, NETWORK, STATE, self.facts)
            with atomic_file(run.path / NETWORK) as partial:
                shutil.copyfile(place / NETWORK, partial)
            run.forget_older_checkpoints(trainer.config.keep)
        trainer.fabric.barrier()

    def plot(self) -> None:
        """Draw the history."""
        history = self.run.history() if self.leads else []
        if history:
            plot_history(history, self.run.path / "history.png", f"{self.trainer.step:,} steps")

    def failed(self, error: TrainingError, batches: list[Batch]) -> TrainingError:
        """Keep what the step was computed from, and say where."""
        trainer = self.trainer
        name = f"failed-step-{trainer.step}-rank-{trainer.fabric.global_rank}.safetensors"
        try:
            trainer.save_failure(self.run.path / name, batches)
            kept = f"The batch is kept in {self.run.path / name}"
        except OutputError as problem:  # no reason to hide what went wrong
            kept = f"The batch could not be kept: {problem}"
        return TrainingError(
            f"step {trainer.step}: {error}. {kept}; the last checkpoint is as it was. A lower "
            "learning rate, or precision fp32, may help"
        )


def _fabric(config: TrainingConfig) -> Fabric:
    """One process, or as many as torchrun started."""
    local, everywhere = (int(os.environ.get(k, "1")) for k in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    accelerator = config.accelerator
    gpus = torch.cuda.device_count()
    if accelerator == "auto":
        accelerator = "cuda" if gpus else "cpu"
    if accelerator == "cuda" and gpus < local:
        raise UsageError(f"found {gpus} GPUs here for {local} processes; needed one for each")
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
                "--vgg16 is given, but these settings leave out its terms: add "
                "--set loss.features=vgg16"
            )
        return None
    if config.loss.vgg16 is None:
        raise UsageError(
            f"the perceptual and style losses need torchvision's {VGG16_FILE}: name it with "
            "--vgg16, or leave these terms out (blurrier fills) with --set loss.features=none"
        )
    return load_vgg16(config.loss.vgg16)


def _resume(trainer: Trainer, run: RunFolder, any_ranks: bool) -> None:
    # One rank chooses: on a shared disk another may see an older state of the folder.
    last = trainer.fabric.broadcast(max(run.checkpoints(), default=None))
    if last is None:
        if (run.path / NETWORK).exists():
            raise InputError(
                f"{run.path / 'checkpoints'} holds no checkpoint any more; begin in another folder"
            )
        return  # interrupted before the first one
    ranks = trainer.load(run.checkpoint(last) / STATE)
    if ranks != trainer.fabric.world_size and not any_ranks:
        raise UsageError(
            f"{run.path} was trained by {ranks} ranks, now there are {trainer.fabric.world_size}. "
            f"Start as many again, or pass --any-ranks: the order of pictures stays, but batch "
            "norms see other parts of each batch"
        )


@contextmanager
def _stopping(ranks: int) -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of dying of it; the second one kills.

    Of several ranks each would stop at another step: there the last checkpoint has to do.
    """
    received: list[int] = []
    if ranks > 1:
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
