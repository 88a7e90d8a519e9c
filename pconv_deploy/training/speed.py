"""Training speed, literal against collapsed formulation: `python -m pconv_deploy.training.speed`.

Both take turns in one process and do the same step on the same batch: forward, loss (without the
perceptual and style terms, which are the same for both), backward, Adam. Loading of pictures is
left out. Memory is measured in a process for each, because an allocator never quite forgets.
"""

import math
from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from torch import Tensor, nn

from pconv_deploy.contract import UNetConfig
from pconv_deploy.masks.drawing import drawn_hole
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.network.architectures import build_network, literal_network
from pconv_deploy.processes import spawning, worker_pool
from pconv_deploy.timing import Contender, Ratio, peak_mib, take_turns
from pconv_deploy.training.config import load_config
from pconv_deploy.training.losses import inpainting_loss

_FORMULATIONS = ("literal", "collapsed")
_MEMORY_STEPS = 3


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; ratios are literal / collapsed of one round, p10, p50 and p90 of them.

    gradient_error  norm of the difference of the whole gradient over its norm, by formulation,
                    against the literal one in double precision
    peak_mib        resident memory of a process that trains a few steps, by formulation; device
                    memory on a GPU
    """

    device: str
    torch: str
    threads: int
    network: str
    batch: int
    size: int
    rounds: int
    seconds_a_step: dict[str, float]
    ratio: tuple[float, float, float]
    gradient_error: dict[str, float]
    peak_mib: dict[str, float]


def measure(config: UNetConfig, batch: int, size: int, rounds: int) -> Speed:
    """Compare both formulations on the GPU if there is one, else on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image, known = _batch(batch, size, device)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else None
    steps = {
        name: Contender(
            _step_of(_network(name, config, device), image, known), synchronise=synchronise
        )
        for name in _FORMULATIONS
    }
    times = take_turns(steps, rounds, warm_up=2)
    ratio = Ratio.of(times["literal"], times["collapsed"])
    return Speed(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        network=config.describe(),
        batch=batch,
        size=size,
        rounds=rounds,
        seconds_a_step={name: float(np.median(seconds)) for name, seconds in times.items()},
        ratio=(ratio.p10, ratio.median, ratio.p90),
        gradient_error=_gradient_errors(config, size),
        peak_mib={name: _in_a_process(name, config, batch, size) for name in _FORMULATIONS},
    )


def _network(formulation: str, config: UNetConfig, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(config)
    chosen = literal_network(network) if formulation == "literal" else network
    return chosen.to(device).train()


def _batch(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise, and drawn holes of all areas: image (N, 3, H, W), known (N, 1, H, W)."""
    rng = np.random.default_rng(0)
    holes = [drawn_hole(rng, size, size, AREA_BUCKETS[n % len(AREA_BUCKETS)]) for n in range(count)]
    image = torch.from_numpy(rng.random((count, 3, size, size), np.float32))
    known = torch.from_numpy(~np.stack(holes)).float()[:, None]
    return image.to(device), known.to(device)


def _step_of(network: nn.Module, image: Tensor, known: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def step() -> None:
        loss, _terms = inpainting_loss(network(image, known), image, known)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _gradient_errors(config: UNetConfig, size: int) -> dict[str, float]:
    """On the CPU, of both in single precision against the literal one in double precision."""
    cpu = torch.device("cpu")
    image, known = _batch(2, size, cpu)

    def gradients(formulation: str, dtype: torch.dtype) -> dict[str, Tensor]:
        network = _network(formulation, config, cpu).to(dtype)
        loss, _terms = inpainting_loss(
            network(image.to(dtype), known.to(dtype)), image.to(dtype), known.to(dtype)
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return {n: p.grad.double() for n, p in network.named_parameters() if p.grad is not None}

    exact = gradients("literal", torch.float64)
    errors = {}
    for name in _FORMULATIONS:
        found = gradients(name, torch.float32)
        errors[name] = _norm([found[key] - exact[key] for key in exact]) / _norm([*exact.values()])
    return errors


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.square().sum() for t in tensors]).sum().sqrt())


def _in_a_process(formulation: str, config: UNetConfig, batch: int, size: int) -> float:
    with worker_pool(1) as pool:
        with spawning():
            measured = pool.submit(_peak_mib, formulation, config, batch, size)
        return measured.result()


def _peak_mib(formulation: str, config: UNetConfig, batch: int, size: int) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = _step_of(_network(formulation, config, device), *_batch(batch, size, device))
    for _ in range(_MEMORY_STEPS):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib() or math.nan


def as_markdown(speed: Speed) -> str:
    """A table for documents."""
    low, middle, high = speed.ratio
    rows = [
        f"| {name} | {1 / speed.seconds_a_step[name]:.2f} "
        f"| {'1' if name == 'literal' else Ratio(middle, low, high)} "
        f"| {speed.peak_mib[name]:.0f} | {speed.gradient_error[name]:.1e} |"
        for name in _FORMULATIONS
    ]
    return "\n".join(
        (
            f"{speed.network}; batch {speed.batch}, {speed.size}x{speed.size}, fp32; "
            f"{speed.device}, {speed.threads} threads, torch {speed.torch}; {speed.rounds} rounds",
            "",
            "| formulation | steps/s | times faster (p10-p90) | peak MiB | gradient error |",
            "|---|---|---|---|---|",
            *rows,
        )
    )


def main(
    config: Annotated[
        str, typer.Option(help="Preset or TOML file, for the network.")
    ] = "paper-512",
    batch: Annotated[int, typer.Option(min=1)] = 2,
    size: Annotated[int, typer.Option(min=16, help="Height and width.")] = 256,
    rounds: Annotated[int, typer.Option(min=3)] = 11,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure how much faster the collapsed formulation trains than the literal one."""
    speed = measure(load_config(config).network, batch, size, rounds)
    typer.echo(msgspec.json.encode(speed).decode() if as_json else as_markdown(speed))


if __name__ == "__main__":
    typer.run(main)
