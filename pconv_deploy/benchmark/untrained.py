"""A full-size untrained network to time: `python -m pconv_deploy.benchmark.untrained`."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image
from torch import nn

from pconv_deploy.assets.photos import photos
from pconv_deploy.checkpoints.native import save_checkpoint
from pconv_deploy.contract import JsonScalar, Normalisation, UNetConfig
from pconv_deploy.masks.irregular import irregular_hole
from pconv_deploy.network.unet import PConvUNet


def untrained_network(
    config: UNetConfig,
    normalisation: Normalisation,
    photos: Iterable[Image.Image],
    seed: int = 0,
) -> PConvUNet:
    """Random weights, and batch norm statistics taken from `photos` with random holes.

    With the statistics of real activations every layer works in the range it would work in
    after training; with the initial ones the numbers grow from layer to layer.
    """
    torch.manual_seed(seed)
    network = PConvUNet(config)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain average over all photos
    side = 2 * config.size_multiple
    mean, std = (torch.tensor(v)[:, None, None] for v in (normalisation.mean, normalisation.std))
    rng = np.random.default_rng(seed)
    network.train()
    with torch.no_grad():
        for photo in photos:
            rgb = np.array(photo.convert("RGB").resize((side, side)), np.float32) / 255
            hole = irregular_hole(rng, side, side, (0.1, 0.2)) != 0
            image = (torch.from_numpy(rgb).permute(2, 0, 1) - mean) / std
            network(image[None], torch.from_numpy(~hole).float()[None, None])
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def write_untrained(output: Path) -> None:
    """Write the paper's network with random weights as a checkpoint."""
    network = untrained_network(UNetConfig(), Normalisation(), photos().values())
    facts: dict[str, JsonScalar] = {"trained": False, "weights": "random", "seed": 0}
    save_checkpoint(output, network, normalisation=Normalisation(), training=facts)


if __name__ == "__main__":
    typer.run(write_untrained)
