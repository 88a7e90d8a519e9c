"""The partial convolution layer, and the operator that represents it in an export.

The operator `pconv_deploy::partial_conv2d` computes the layer literally: torch.export keeps it, the
exporter translates it to one ONNX node, and exact rewrites make that fast. Outside of export the
layer computes the same with less work in ordinary torch operations, so autograd and torch.compile
work on it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


def renormalise(
    y: Tensor,
    share: Tensor,
    window: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Rescale a convolution of features that are zero in their holes by what each window covers.

    Liu et al. 2018 (arXiv:1804.07723), eq. 1-2, with coverage = known / area, the share of
    the (channel, tap) pairs under the window that are known; outside the image is hole:

        y'     = y / coverage + bias   where coverage > 0, else 0
        known' = 1                     where coverage > 0, else 0

    There is no epsilon: 1 / (coverage + eps) overflows in half precision where nothing is
    known, and inf * 0 is NaN. Choosing the divisor first cannot; the ratio itself is at most
    C kh kw, which half precision holds up to 65504.

    Args:
        y: (N, K, H', W'), convolved without bias from features that are exactly 0 in their holes.
        share: (N, 1, H, W) in 0..1, the share of the C channels known at each pixel. Its
            window average is all that is needed of the masks: no convolution of C of them.
        window: rows and columns of the kernel.
        bias: (K,) or None.
        stride: vertical, horizontal.
        padding: rows above and below, columns left and right.

    Returns:
        y' (N, K, H', W'), exactly 0 in its holes, and known' (N, 1, H', W') of 0 and 1.
    """
    # In mixed precision y, and perhaps share, has half the bits; the ratio is worth all of them.
    precise = torch.promote_types(share.dtype, torch.float32)
    # Padding counts as hole.
    coverage = F.avg_pool2d(share.to(precise), list(window), list(stride), list(padding))
    seen = coverage > 0
    known = seen.to(precise)
    renormalised = y * (known / torch.where(seen, coverage, torch.ones_like(coverage)))
    if bias is not None:
        renormalised = renormalised + bias[:, None, None] * known
    return renormalised.to(y.dtype), known.to(share.dtype)


def masked_conv2d(  # noqa: PLR0913  as torch.nn.functional.conv2d
    x: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Compute a partial convolution as the paper writes it and NVIDIA's PartialConv2d does.

    The mask has as many channels as the features, and is convolved with ones of the weight's
    full shape: as much work as the features themselves.

    With known = the sum of the mask under the window and area = its number of elements:

        mask' = min(known, 1)
        y     = (weight * (x mask)) mask' area / known + bias mask'   where known > 0, else 0

    Args:
        x: (N, C, H, W); what it holds in holes does not matter if it is finite.
        mask: (N, C, H, W), or (N, 1, H, W) for all channels, 0 (hole) to 1 (known).
        weight: (K, C / groups, kh, kw).
        bias: (K,) or None.
        stride: vertical, horizontal.
        padding: rows above and below, columns left and right; it counts as hole.
        dilation: vertical, horizontal.
        groups: of the convolution of x; a mask is summed over all its channels all the same.

    Returns:
        y (N, K, H', W') and mask' (N, K, H', W'), or (N, 1, H', W') if the mask has one channel.
    """
    channels, window = mask.shape[1], tuple(weight.shape[2:])
    copies = 1 if channels == 1 else weight.shape[0]
    ones = torch.ones((copies, channels, *window), dtype=mask.dtype, device=mask.device)
    known = F.conv2d(mask, ones, None, stride, padding, dilation)
    area = channels * window[0] * window[1]
    updated = known.clamp(max=1)
    ratio = updated * area / torch.where(known > 0, known, torch.ones_like(known))
    y = F.conv2d(x * mask, weight, None, stride, padding, dilation, groups) * ratio
    if bias is not None:
        y = (y + bias[:, None, None]) * updated
    return y, updated


partial_conv2d = torch.library.custom_op(
    "pconv_deploy::partial_conv2d",
    masked_conv2d,
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor mask, Tensor weight, Tensor? bias, int[] stride, int[] padding, "
        "int[] dilation, int groups) -> (Tensor, Tensor)"
    ),
)


@partial_conv2d.register_fake
def _shapes_alone(  # noqa: PLR0913  as the operator
    x: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,  # noqa: ARG001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """Return the shapes without the arithmetic: tracing that with free sizes takes long."""
    windows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    # Rounded up, not down and one more: of 64 rows times n this leaves 32 n, without a quotient.
    sides = [
        -(-(side + 2 * around - spread * (taps - 1)) // step)
        for side, taps, step, around, spread in windows
    ]
    channels = weight.shape[0]
    y = x.new_empty((x.shape[0], channels, *sides))
    updated = mask.new_empty((x.shape[0], 1 if mask.shape[1] == 1 else channels, *sides))
    return y, updated


class PartialConv2d(nn.Module):
    """Convolve the known pixels only; also return which outputs are known.

    x (N, sum(in_channels), H, W) float, known (N, groups, H, W) float, 0 (hole) or 1 (known)
    -> y (N, out_channels, H', W'), exactly 0 in its holes, and known' (N, 1, H', W').

    Args:
        in_channels: channels of the input, or of each group of a concatenated input; a group
            has one mask, constant over its channels.
        out_channels: channels of the output.
        kernel_size: rows and columns of the window.
        stride: of the window.
        padding: of the input, with hole.
        bias: whether known outputs get a learned offset.
        input_is_masked: the caller promises that x is 0 wherever it is unknown, which saves a
            multiplication.
    """

    group_counts: Tensor

    def __init__(  # noqa: PLR0913  as torch.nn.Conv2d
        self,
        in_channels: int | Sequence[int],
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        bias: bool = True,
        input_is_masked: bool = False,
    ) -> None:
        super().__init__()
        groups = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        self.group_channels = groups
        self.stride, self.padding = _pair(stride), _pair(padding)
        self.input_is_masked = input_is_masked
        self.weight = nn.Parameter(torch.empty(out_channels, sum(groups), *_pair(kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        counts = torch.tensor(groups, dtype=torch.get_default_dtype())
        self.register_buffer("group_counts", counts[:, None, None], persistent=False)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            return self._written_out(x, known)
        x = x if self.input_is_masked else self._masked(x, known)
        share = self._known_share(known)
        y = F.conv2d(x, self.weight, None, self.stride, self.padding)
        window = self.weight.shape[-2:]
        return renormalise(y, share, window, self.bias, self.stride, self.padding)

    def _written_out(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Expand the mask to every channel and call the operator."""
        masks = torch.split(known, 1, dim=1)
        each = zip(masks, self.group_channels, strict=True)
        mask = torch.cat([m.expand(-1, count, -1, -1) for m, count in each], dim=1)
        y, known = torch.ops.pconv_deploy.partial_conv2d(
            x, mask, self.weight, self.bias, self.stride, self.padding, (1, 1), 1
        )
        return y, known[:, :1]

    def _masked(self, x: Tensor, known: Tensor) -> Tensor:
        if len(self.group_channels) == 1:
            return x * known
        features = torch.split(x, self.group_channels, dim=1)
        masks = torch.split(known, 1, dim=1)
        return torch.cat([f * m for f, m in zip(features, masks, strict=True)], dim=1)

    def _known_share(self, known: Tensor) -> Tensor:
        if len(self.group_channels) == 1:
            return known
        # Divided last: a quotient such as 1/3 kept in single precision would spoil double.
        return (known * self.group_counts).sum(dim=1, keepdim=True) / sum(self.group_channels)


class SkipPartialConv2d(PartialConv2d):
    """3x3 partial convolution of features doubled in size and a skip connection beside them.

    The nearest-doubled features are never made. Of the nine taps over them, those that read the
    same original pixel are summed, which leaves a transposed convolution of stride 2 with 4x4
    taps: 16 multiplications for each original pixel and channel instead of 36. The sums are
    differentiable, so training learns the same nine taps. While exporting, the layer is written
    out as doubling, concatenation and one operator.

    x (N, C, H, W) float, skip (N, S, 2H, 2W) float, both 0 wherever they are unknown; known
    (N, 1, H, W) and skip_known (N, 1, 2H, 2W) float, 0 (hole) or 1 (known)
    -> y (N, K, 2H, 2W), exactly 0 in its holes, and known' (N, 1, 2H, 2W).
    """

    def __init__(self, channels: int, skip_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(
            (channels, skip_channels), out_channels, 3, padding=1, bias=bias, input_is_masked=True
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, known: Tensor, skip: Tensor, skip_known: Tensor
    ) -> tuple[Tensor, Tensor]:
        masks = torch.cat([_doubled(known), skip_known], dim=1)
        if torch.compiler.is_exporting():
            return self._written_out(torch.cat([_doubled(x), skip], dim=1), masks)
        taps, skip_taps = torch.split(self.weight, self.group_channels, dim=1)
        y = convolve_doubled(x, taps) + F.conv2d(skip, skip_taps, padding=1)
        share = self._known_share(masks)
        return renormalise(y, share, (3, 3), self.bias, (1, 1), (1, 1))


def convolve_doubled(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the nearest-doubled x, padded by one pixel of zeros, without doubling it.

    Along one axis the output at o reads the doubled input at o - 1, o and o + 1 with the taps
    w0, w1, w2, and each original pixel i stands at 2i and 2i + 1. So i is read by 2i - 1 with w2,
    by 2i with w1 + w2, by 2i + 1 with w0 + w1, and by 2i + 2 with w0: a transposed convolution
    whose taps are the sums of neighbours in 0, w2, w1, w0, 0.

    x (N, C, H, W), weight (K, C, 3, 3) -> (N, K, 2H, 2W)
    """
    mirrored = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
    taps = F.avg_pool2d(mirrored, 2, stride=1, divisor_override=1)  # (K, C, 4, 4)
    return F.conv_transpose2d(x, taps.transpose(0, 1), stride=2, padding=1)


def pad_to_multiple(image: Tensor, known: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Pad image and mask with hole, below and right, to multiples of `multiple`."""
    height, width = image.shape[-2:]
    pad = (0, -width % multiple, 0, -height % multiple)
    return (F.pad(image, pad), F.pad(known, pad)) if any(pad) else (image, known)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size
