"""Read U-Nets of PyTorch projects whose layers are numbered from 1, outermost first.

All concatenate [doubled features, skip connection] as ours do, and use torch's batch norm.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from pconv_deploy.checkpoints.foreign.canonical import ForeignUNet, Norm, Stage
from pconv_deploy.checkpoints.foreign.weights import Weights
from pconv_deploy.contract import Family, Normalisation
from pconv_deploy.errors import CheckpointError

_NORM_EPS = 1e-5  # torch's default
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class NumberedLayout:
    """A project's names of layers, and what it computes differently.

    encoder, decoder   name of a layer, with {} for its number
    conv, ones, norm   within a layer: convolution, mask-summing kernel, batch norm
    biased_encoder     its outermost encoder layer has a bias (the outermost decoder always has)
    ratio_of_one       it multiplies by 1 / known instead of area / known
    """

    family: Family
    normalisation: Normalisation
    encoder: str
    decoder: str
    conv: str
    ones: str
    norm: str
    biased_encoder: bool
    ratio_of_one: bool

    def recognises(self, names: Collection[str]) -> bool:
        """Return whether any name is that of an encoder layer's weights."""
        return bool(self._numbers(names))

    def read(self, weights: Weights) -> ForeignUNet:
        """Check names, kinds and numbers; turn the arithmetic into ours.

        Raises:
            CheckpointError: with missing or unexpected tensors, or not finite.
        """
        levels = range(1, max(self._numbers(weights.names)) + 1)
        layers = [half.format(n) for half in (self.encoder, self.decoder) for n in levels]
        ranks = {f"{layer}.{self.conv}.weight": 4 for layer in layers}
        for layer in layers:
            if layer not in self._outermost:
                ranks |= {f"{layer}.{self.norm}.{part}": 1 for part in _NORM_PARTS}
        ranks |= {f"{layer}.{self.conv}.bias": 1 for layer in self._biased}
        weights.require(self.family.name, ranks, ignored=rf".*\.{re.escape(self.ones)}")
        encoder, decoder = (
            [self._stage(weights, half.format(n)) for n in levels]
            for half in (self.encoder, self.decoder)
        )
        return ForeignUNet(
            family=self.family,
            normalisation=self.normalisation,
            encoder=encoder,
            decoder=decoder,
        )

    def _numbers(self, names: Collection[str]) -> set[int]:
        before, after = self.encoder.split("{}")
        pattern = re.compile(
            rf"{re.escape(before)}(\d{{1,2}}){re.escape(after)}\.{re.escape(self.conv)}\.weight"
        )
        return {int(match[1]) for name in names if (match := pattern.fullmatch(name))} - {0}

    @property
    def _outermost(self) -> tuple[str, str]:
        return self.encoder.format(1), self.decoder.format(1)

    @property
    def _biased(self) -> tuple[str, ...]:
        return self._outermost if self.biased_encoder else self._outermost[1:]

    def _stage(self, weights: Weights, layer: str) -> Stage:
        weight = weights[f"{layer}.{self.conv}.weight"]
        if weight.shape[2] != weight.shape[3]:
            raise CheckpointError(f"{weights.path}: {layer} has a window that is not square")
        weights.require_ones(f"{layer}.{self.ones}", tuple(weight.shape))
        norm = None
        if layer not in self._outermost:
            parts = [weights[f"{layer}.{self.norm}.{part}"] for part in _NORM_PARTS]
            scale, offset, mean, var = parts
            norm = Norm(scale=scale, offset=offset, mean=mean, var=var, eps=_NORM_EPS)
        return Stage(
            name=layer,
            weight=weight / weight[0].numel() if self.ratio_of_one else weight,
            bias=weights[f"{layer}.{self.conv}.bias"] if layer in self._biased else None,
            norm=norm,
        )


# Each layer divides by the number of known (channel, tap) pairs under its window and does not
# multiply by their possible number, as the paper's first version wrote it. So its weights are ours
# times that number; batch norm's statistics already have the resulting scale. Its authors' weights
# were trained with masks of 512 pixels scaled bilinearly to 256.
NAOTO0804 = NumberedLayout(
    family=Family(name="naoto0804", mask_convention="hole-black", mask_scaling="bilinear"),
    # Of ImageNet, as torchvision's classifiers.
    normalisation=Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    encoder="enc_{}",
    decoder="dec_{}",
    conv="conv.input_conv",
    ones="conv.mask_conv.weight",
    norm="bn",
    biased_encoder=False,
    ratio_of_one=True,
)

# MMagic (formerly MMEditing), `PConvEncoderDecoder`: NVIDIA's layer in the same U-Net. Its
# mask-summing kernel has as many channels as the features; files of its layer with masks of one
# channel are refused, because at a concatenation those compute something else.
MMAGIC = NumberedLayout(
    # It draws masks at the size of the picture.
    family=Family(name="mmagic", mask_convention="hole-white", mask_scaling=None),
    normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    # Below "generator", beside which its files have losses and whatever else trained with it.
    encoder="encoder.enc{}",
    decoder="decoder.dec{}",
    conv="conv",
    ones="conv.weight_mask_updater",
    norm="bn",
    biased_encoder=True,
    ratio_of_one=False,
)
