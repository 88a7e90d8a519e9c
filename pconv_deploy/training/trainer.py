"""Training steps: network, optimiser, weight average, and saving and loading them."""

from collections.abc import Mapping, Sequence
from math import cos, pi
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import JsonScalar
from pconv_deploy.errors import InputError, OutputError, TrainingError
from pconv_deploy.files import atomic_file, writing
from pconv_deploy.network.architectures import Network, build_network
from pconv_deploy.training.config import Phase, TrainingConfig
from pconv_deploy.training.losses import inpainting_loss
from pconv_deploy.training.samples import Batch
from pconv_deploy.training.vgg import Vgg16Features

_INFERENCE_BATCH = 16  # images


class Trainer:
    """The network in training.

    With mixed precision, masks stay exact and normalisation ratios in single precision.
    """

    def __init__(
        self, config: TrainingConfig, fabric: Fabric, vgg: Vgg16Features | None = None
    ) -> None:
        self.config, self.fabric, self.step = config, fabric, 0
        torch.manual_seed(config.seed)  # the same weights on every rank
        self.network: Network = build_network(config.network)
        if config.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        norms = [p for m in _batch_norms(self.network.encoder) for p in m.parameters()]
        others = [p for p in self.network.parameters() if all(p is not n for n in norms)]
        # The encoder's norms are a separate group: a learning rate of 0 freezes them.
        self._adam = torch.optim.Adam([{"params": others}, {"params": norms}])
        model: nn.Module = self.network
        if config.compile:
            model = cast("nn.Module", torch.compile(self.network))
        self._model, self._optimizer = fabric.setup(model, self._adam)
        self._average = (
            AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(config.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if config.ema
            else None
        )
        self._vgg = vgg.to(fabric.device) if vgg else None
        self._mean, self._std = (
            torch.tensor(values, device=fabric.device)[:, None, None]
            for values in (config.normalisation.mean, config.normalisation.std)
        )

    @property
    def result(self) -> Network:
        """The network that is stored and evaluated: the average if there is one."""
        averaged = self._average.module if self._average else self.network
        assert isinstance(averaged, type(self.network))
        return averaged

    def train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Train on one step's micro-batches; return the averaged loss and its terms.

        Raises:
            TrainingError: the loss is not finite. The weights are unchanged.
        """
        self._enter_phase()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            image, known = self._on_device(batch)
            more = number + 1 < len(batches)
            with self.fabric.no_backward_sync(self._model, enabled=more):
                output = self._paint(self._model, image, known)
                loss, terms = inpainting_loss(
                    output,
                    image,
                    known,
                    features=self._features if self._vgg else None,
                    weights=self.config.loss.weights,
                )
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(
                        "the loss is not finite: "
                        + ", ".join(f"{k} {v:g}" for k, v in terms.items())
                    )
                self.fabric.backward(loss / len(batches))
            for name, term in {"loss": loss, **terms}.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(batches)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average:
            self._average.update_parameters(self.network)
        self.step += 1
        return sums

    @torch.no_grad()
    def paint(self, batch: Batch) -> Tensor:
        """Run the stored network: raw output (N, 3, H, W) on the CPU, about 0..1."""
        result = self.result
        was_training = result.training
        result.eval()
        image, known = self._on_device(batch)
        parts = -(-len(image) // _INFERENCE_BATCH)
        painted = [
            self._paint(result, i, k)
            for i, k in zip(image.chunk(parts), known.chunk(parts), strict=True)
        ]
        result.train(was_training)
        return torch.cat(painted).cpu()

    def save(
        self, folder: Path, network_file: str, state_file: str, facts: Mapping[str, JsonScalar]
    ) -> None:
        """Write the stored network as a checkpoint, and the training state beside it.

        Raises:
            OutputError: not writable, disk full.
            TrainingError: the weights are not finite.
        """
        if not all(bool(torch.isfinite(t).all()) for t in self.result.state_dict().values()):
            raise TrainingError(f"step {self.step}: the weights are not finite; nothing was saved")
        save_checkpoint(
            folder / network_file,
            self.result,
            normalisation=self.config.normalisation,
            training={"steps": self.step, **facts},
        )
        state = {
            "step": self.step,
            "ranks": self.fabric.world_size,
            "network": self.network.state_dict(),
            "optimizer": self._adam.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        path = folder / state_file
        with writing(path), path.open("wb") as stream:
            try:
                torch.save(state, stream)
            except RuntimeError as error:  # the zip writer detects a short write
                raise OutputError(f"cannot write {path}: is the disk full?") from error

    def load(self, path: Path) -> int:
        """Load a saved state; return the number of ranks it was saved with.

        Raises:
            InputError: damaged, or from another network.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(state["network"])
            self._adam.load_state_dict(state["optimizer"])
            if self._average:
                if state["average"] is not None:
                    self._average.load_state_dict(state["average"])
                else:  # averaging starts here
                    self._average.module.load_state_dict(state["network"])
            if state["precision"]:
                self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.step = int(state["step"])
            return int(state["ranks"])
        # Damaged files make torch's unpickler and the loaders raise anything.
        except Exception as error:
            raise InputError(
                f"{path} is damaged or from another network: {error}\n  "
                f"To continue from the previous checkpoint, remove {path.parent}"
            ) from error

    def save_failure(self, path: Path, batches: Sequence[Batch]) -> None:
        """Save the batches that made the loss non-finite, for inspection."""
        tensors = {
            f"{name}.{number}": tensor.to(torch.uint8)
            for number, batch in enumerate(batches)
            for name, tensor in (("image", batch["image"]), ("known", batch["known"]))
        }
        with atomic_file(path) as partial:
            try:
                save_file(tensors, partial)
            except SafetensorError as error:
                raise OutputError(f"cannot write {path}: {error}") from error

    def _enter_phase(self) -> None:
        phase, into = phase_at(self.config, self.step)
        rate = phase.learning_rate
        if phase.schedule == "cosine":
            rate *= (1 + cos(pi * into / phase.steps)) / 2
        others, norms = self._adam.param_groups
        others["lr"], norms["lr"] = rate, 0.0 if phase.freeze_encoder_norm else rate
        self.network.train()
        for norm in _batch_norms(self.network.encoder) if phase.freeze_encoder_norm else ():
            norm.eval()

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return image (N, 3, H, W) in 0..1 and known (N, 1, H, W) of 0 and 1, float."""
        image, known = (
            batch[key].to(self.fabric.device, non_blocking=True).float()
            for key in ("image", "known")
        )
        if self.config.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image / 255, known

    def _paint(self, model: nn.Module, image: Tensor, known: Tensor) -> Tensor:
        with self.fabric.autocast():
            output = model((image - self._mean) / self._std, known)
        painted: Tensor = output.float() * self._std + self._mean
        return painted

    def _features(self, pictures: Tensor) -> list[Tensor]:
        assert self._vgg is not None
        with self.fabric.autocast():
            maps = self._vgg(pictures)
        # Gram matrices sum over all pixels, which overflows half precision.
        return [level.float() for level in maps]


def phase_at(config: TrainingConfig, step: int) -> tuple[Phase, int]:
    """Return the phase of a step and the step's index in that phase."""
    for phase in config.phases[:-1]:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    return config.phases[-1], step


def _batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
