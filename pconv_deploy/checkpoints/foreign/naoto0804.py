"""naoto0804/pytorch-inpainting-with-partial-conv, released weights and training files.

Each layer divides by the number of known (channel, tap) pairs under its window and does not
multiply by their possible number, as the paper's first version wrote it. So its weights are ours
times that number; batch norm's statistics already live at the scale that results.

Its authors' weights were trained with masks of 512 pixels shrunk bilinearly to 256.
"""

from pconv_deploy.checkpoints.foreign.numbered import NumberedLayout
from pconv_deploy.contract import Family, Normalisation

LAYOUT = NumberedLayout(
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
