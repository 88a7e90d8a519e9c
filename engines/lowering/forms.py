"""The choice among equal forms of one graph; plain values, for manifests too."""

from typing import Literal

import msgspec

# How a decoder's convolution of doubled features is computed:
# transposed         a 4x4 transposed convolution
# interleaved        a 2x2 convolution of four phases, put side by side one axis at a time
# interleaved_nhwc   the same with channels last
# depth_to_space     the same by DepthToSpace
# enlarged           features are doubled first
Upsampling = Literal["transposed", "interleaved", "interleaved_nhwc", "depth_to_space", "enlarged"]


class Arrangement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice of equal forms; the default is what `export -O2` writes.

    upsampling      of the decoder's convolutions from the deepest on; the last holds for the rest
    narrow_input    the first layer on blocks of 2x2 pixels
    narrow_output   the last layer as four phases
    fused_epilogue  the ratio behind the activation
    """

    upsampling: tuple[Upsampling, ...] = ("transposed",)
    narrow_input: bool = False
    narrow_output: bool = False
    fused_epilogue: bool = False

    def of_site(self, number: int) -> Upsampling:
        """The form of one decoder convolution, counted from the deepest."""
        return self.upsampling[min(number, len(self.upsampling) - 1)]

    def describe(self) -> str:
        """One line for people."""
        forms = {
            "narrow input": self.narrow_input,
            "narrow output": self.narrow_output,
            "fused epilogue": self.fused_epilogue,
        }
        return ", ".join([" ".join(self.upsampling), *(name for name, on in forms.items() if on)])
