"""MMagic (before: MMEditing), `PConvEncoderDecoder`: NVIDIA's layer in the same U-Net.

Its mask-summing kernel has as many channels as the features; files of its layer with masks of one
channel are refused, because at a concatenation those compute something else.
"""

from pconv_deploy.checkpoints.foreign.numbered import NumberedLayout
from pconv_deploy.contract import Family, Normalisation

LAYOUT = NumberedLayout(
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
