"""The choice among equal forms of one graph; plain values, for manifests too."""

from typing import Literal

import msgspec

Upsampling = Literal["transposed", "interleaved", "enlarged"]


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
