"""Record a training run in its folder: metrics, images and checkpoints."""

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pconv_deploy.contract import JsonScalar
from pconv_deploy.errors import OutputError, TrainingError
from pconv_deploy.files import atomic_folder, writing
from pconv_deploy.training.monitor import picture_grid, plot_history, validation_score
from pconv_deploy.training.run_folder import NETWORK, STATE, RunFolder
from pconv_deploy.training.samples import Batch
from pconv_deploy.training.trainer import Trainer


@dataclass
class Recorder:
    """Accumulate metrics, report and save; only rank 0 writes files."""

    trainer: Trainer
    run: RunFolder
    validation: Batch | None
    facts: dict[str, JsonScalar]
    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    skipped: int = 0
    since: float = 0.0
    tensorboard: SummaryWriter | None = None

    @property
    def leads(self) -> bool:
        return self.trainer.fabric.is_global_zero

    def __enter__(self) -> None:
        if self.leads:
            self.run.forget_history_after(self.trainer.step)
            with writing(self.run.tensorboard):
                # Steps after the last checkpoint of an interrupted run are computed again.
                self.tensorboard = SummaryWriter(
                    str(self.run.tensorboard), purge_step=self.trainer.step
                )
        self.since = time.perf_counter()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # Do not hide the original error behind an error of closing.
        with suppress(OutputError) if error else nullcontext():
            if self.tensorboard:
                with writing(self.run.tensorboard):
                    self.tensorboard.close()

    def count(self, terms: Mapping[str, Tensor], skipped: int) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0) + term
        self.steps += 1
        self.skipped += skipped

    def report(self, shown: Batch | None) -> dict[str, float]:
        """Return the metrics since the last report, averaged over steps and ranks.

        With `shown`, also write example images: of the validation set, with its score, if there
        is one; otherwise of `shown`.
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
        if self.tensorboard:
            if shown:
                figures |= self._show(self.tensorboard, shown)
            self.run.require_claimed()
            with writing(self.run.tensorboard):
                for name, value in figures.items():
                    self.tensorboard.add_scalar(name, value, trainer.step)
            self.run.append_history({"step": trainer.step, **figures})
        self.since = time.perf_counter()
        return figures

    def _show(self, tensorboard: SummaryWriter, batch: Batch) -> dict[str, float]:
        """Run the network once, for the example images and the score."""
        shown = self.validation or batch
        image, known = shown["image"] / 255, shown["known"].float()
        painted = self.trainer.paint(shown)
        grid = picture_grid(image, known, painted)
        with writing(self.run.tensorboard):
            tensorboard.add_image("with hole, output, composite, truth", grid, self.trainer.step)
        return validation_score(image, known, painted) if self.validation else {}

    def save(self) -> None:
        """Write a checkpoint atomically, then remove older ones."""
        trainer, run = self.trainer, self.run
        if self.leads:
            run.require_claimed()
            if trainer.step not in run.checkpoints():
                place = run.checkpoint(trainer.step)
                with atomic_folder(place, overwrite=True, replaceable=lambda _: True) as fresh:
                    trainer.save(fresh, NETWORK, STATE, self.facts)
            run.publish(trainer.step)
            run.forget_older_checkpoints(trainer.config.keep)
        trainer.fabric.barrier()

    def plot(self) -> None:
        """Plot the history."""
        history = self.run.history() if self.leads else []
        if history:
            plot_history(history, self.run.path / "history.png", f"{self.trainer.step:,} steps")

    def failed(self, error: TrainingError, batches: list[Batch]) -> TrainingError:
        """Save the batches of the failed step; return the error with their path."""
        trainer = self.trainer
        name = f"failed-step-{trainer.step}-rank-{trainer.fabric.global_rank}.safetensors"
        try:
            trainer.save_failure(self.run.path / name, batches)
            kept = f"The batch is saved in {self.run.path / name}"
        except OutputError as problem:  # the training error matters more
            kept = f"The batch could not be saved: {problem}"
        return TrainingError(
            f"step {trainer.step}: {error}. {kept}; the last checkpoint is unchanged. A lower "
            "learning rate, or precision fp32, may help"
        )
