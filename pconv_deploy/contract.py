"""The facts stored in checkpoints, graphs and engines.

Plain values, validated when read (msgspec), no torch, no numpy.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MAX_LEVELS = 10
MAX_SIDE = 4096  # of a fixed-size graph
GRAPH_FORMAT: Final = 1
# The names of the graphs' inputs and outputs; see `deployment_specs` and `tensor_specs`.
IMAGE, HOLE_MASK, FILLED, OUTPUT = "image", "hole_mask", "filled", "output"
# The network's output before compositing: an inner value of the deployment graph.
RAW_OUTPUT = "raw_output"
# Training runs and the demo store their checkpoint under this name; it identifies the folder.
NETWORK_FILE = "network.safetensors"

Channels = Annotated[int, Meta(ge=1, le=4096)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# Of features and weights; masks and the ends of a graph are always in single precision.
GraphPrecision = Literal["fp32", "fp16", "bf16"]
JsonScalar = str | int | float | bool | None


class UNetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Depth and width of the network; the defaults are the paper's (Liu et al. 2018, table 2).

    channels     output channels of each encoder level, outermost first
    kernels      encoder kernel sizes, odd; the decoder always uses 3
    convolution  "ordinary" is the paper's baseline Conv, with the hole as a fourth channel
    head         what follows the last partial convolution: "linear" is nothing, as in the paper;
                 "sigmoid" an offset, LeakyReLU, a 1x1 convolution and a sigmoid, as in PConv-Keras
    """

    channels: tuple[Channels, ...] = (64, 128, 256, 512, 512, 512, 512, 512)
    kernels: tuple[int, ...] = (7, 5, 5, 3, 3, 3, 3, 3)
    convolution: Literal["partial", "ordinary"] = "partial"
    head: Literal["linear", "sigmoid"] = "linear"

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= MAX_LEVELS:
            raise ValueError(f"found {len(self.channels)} levels; needed 1 to {MAX_LEVELS}")
        if len(self.kernels) != len(self.channels):
            raise ValueError(f"found {len(self.kernels)} kernels for {len(self.channels)} levels")
        if any(k % 2 == 0 or not 1 <= k <= 15 for k in self.kernels):
            raise ValueError(f"found kernels {self.kernels}; needed odd sizes from 1 to 15")
        if self.convolution == "ordinary" and self.head != "linear":
            raise ValueError(f"found head {self.head!r}; ordinary convolutions need 'linear'")

    @property
    def levels(self) -> int:
        return len(self.channels)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this many pixels, so that every level halves."""
        return 1 << self.levels

    def describe(self) -> str:
        """Describe it in one line."""
        return (
            f"U-Net of {self.convolution} convolutions, {self.levels} levels, "
            f"channels {'-'.join(map(str, self.channels))}, "
            f"kernels {'-'.join(map(str, self.kernels))}"
            f"{'' if self.head == 'linear' else f', {self.head} head'}"
        )


class Normalisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Normalisation of RGB in 0..1 for the network: (rgb - mean) / std.

    The default maps to -1..1, as the paper's authors do.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not all(0 < s < 100 for s in self.std) or not all(-100 < m < 100 for m in self.mean):
            raise ValueError(f"found mean {self.mean}, std {self.std}; needed finite, std > 0")


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph.

    shape  a number where the size is fixed, a name where it is free
    """

    name: str
    dtype: Literal["uint8", "float32"]
    layout: str
    shape: tuple[int | str, ...]
    meaning: str


_SCALING = {
    "touching": "so that all they touch is hole",
    "nearest": "to the nearest pixels",
    "bilinear": "bilinearly",
}


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The project a checkpoint comes from, and the convention of its mask files.

    For users of that project's masks: our graphs always take nonzero = fill.

    mask_convention  which pixels of a mask file are the hole; None: unknown
    mask_scaling     how that project brings a mask to the size of its image: "touching" makes hole
                     of every pixel that touches it; None where it does not scale masks
    """

    name: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")] = "pconv-deploy"
    mask_convention: Literal["hole-white", "hole-black"] | None = "hole-white"
    mask_scaling: Literal["touching", "nearest", "bilinear"] | None = "touching"

    def describe(self) -> str:
        """Describe it in one line."""
        if self.mask_convention is None or self == Family():
            return self.name
        colour = self.mask_convention.removeprefix("hole-")
        scaling = f"; it scales them {_SCALING[self.mask_scaling]}" if self.mask_scaling else ""
        return f"{self.name} (in its own mask files {colour} is the hole{scaling})"


class UserModule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user's own network, given as Python code.

    factory               what makes it: "package.module:name"
    mask_channels         of the mask that its forward takes
    partial_convolutions  how many of its layers are such
    """

    factory: str
    mask_channels: Literal[1, 3]
    partial_convolutions: int

    def describe(self) -> str:
        """Describe it in one line."""
        return (
            f"module {self.factory}, {self.partial_convolutions} partial convolutions, "
            f"called with a mask of {self.mask_channels} channel{'s' * (self.mask_channels > 1)}"
        )


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The checkpoint, or the module with its weights, that a graph was made from.

    file         the checkpoint or the weights; of a module without such a file, its factory
    network      of a checkpoint
    module       of anything else
    weights_key  where in `file` the weights lie; None: they are the file
    """

    file: str
    sha256: Sha256
    network: UNetConfig | None = None
    module: UserModule | None = None
    family: Family = Family()
    training: Mapping[str, JsonScalar] = {}
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if (self.network is None) == (self.module is None):
            raise ValueError("needed either a network or a module")

    def describe_network(self) -> str:
        """Describe it in one line."""
        network = self.network or self.module
        assert network is not None
        return network.describe()

    def describe_weights(self) -> str:
        """Describe the file and its weights in one line."""
        return f"{self.weights_key} in {self.file}" if self.weights_key else self.file


class GraphContract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts that a runtime needs to run a graph.

    size      None where height and width are free multiples of `size_multiple`
    rewrites  names of the exact rewrites it went through, in their order
    """

    format: Literal[1] = GRAPH_FORMAT
    kind: Literal["deployment", "tensor"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normalisation: Normalisation
    size_multiple: Annotated[int, Meta(ge=1, le=1 << MAX_LEVELS)]
    batch: Annotated[int, Meta(ge=1, le=1024)] | None = None
    size: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]] | None = None
    precision: GraphPrecision = "fp32"
    rewrites: tuple[str, ...] = ()
    source: Source

    def __post_init__(self) -> None:
        if self.size and any(side % self.size_multiple or side > MAX_SIDE for side in self.size):
            raise ValueError(
                f"found size {self.size}; needed multiples of {self.size_multiple}, "
                f"at most {MAX_SIDE}"
            )
        specs = tensor_specs if self.kind == "tensor" else deployment_specs
        if (self.inputs, self.outputs) != specs(self.batch, self.size):
            raise ValueError(f"its tensors are not those of a {self.kind} graph")

    def describe_shapes(self) -> str:
        """Describe the sizes and batches that the graph takes in one line."""
        size = (
            f"{self.size[0]}x{self.size[1]}"
            if self.size
            else f"any multiple of {self.size_multiple}"
        )
        return f"batch {self.batch or 'any'}, height x width {size}"


def deployment_specs(
    batch: int | None, size: tuple[int, int] | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return inputs and outputs of a deployment graph: uint8 in and out."""
    n, (h, w) = batch or "batch", size or ("height", "width")
    return (
        TensorSpec(IMAGE, "uint8", "NHWC", (n, h, w, 3), "RGB; pixels in the hole are ignored"),
        TensorSpec(HOLE_MASK, "uint8", "NHW", (n, h, w), "nonzero = to be filled"),
    ), (
        TensorSpec(
            FILLED, "uint8", "NHWC", (n, h, w, 3), "RGB, the known pixels exactly those of image"
        ),
    )


def tensor_specs(
    batch: int | None, size: tuple[int, int] | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return inputs and outputs of a tensor graph: float in and out."""
    n, (h, w) = batch or "batch", size or ("height", "width")
    return (
        TensorSpec(
            IMAGE, "float32", "NCHW", (n, 3, h, w), "RGB in 0..1; in the hole anything finite"
        ),
        TensorSpec(HOLE_MASK, "float32", "NCHW", (n, 1, h, w), "nonzero = to be filled"),
    ), (
        TensorSpec(
            OUTPUT,
            "float32",
            "NCHW",
            (n, 3, h, w),
            "the network's RGB, about 0..1 but not clipped, nor composited with image",
        ),
    )
