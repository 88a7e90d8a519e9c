"""The partial convolution layer and the operator that carries it through export.

The operator `pconv_deploy::partial_conv2d` is what a graph shows: torch.export keeps it
whole and the exporter translates it to one ONNX function node. Outside of export the same
arithmetic runs as ordinary torch operations, so autograd and torch.compile see through it.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


def renormalised_conv2d(
    x: Tensor,
    share: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Convolve features that are zero in their holes; rescale by what each window covers.

    Liu et al. 2018 (arXiv:1804.07723), eq. 1-2, with coverage = known / area, the share of
    the (channel, tap) pairs under the window that are known; outside the image is hole:

        y      = (weight * x) / coverage + bias   where coverage > 0, else 0
        known' = 1                                where coverage > 0, else 0

    There is no epsilon: 1 / (coverage + eps) overflows in half precision where nothing is
    known, and inf * 0 is NaN. Choosing the divisor first cannot; the ratio itself is at most
    C kh kw, which half precision holds up to 65504.

    Args:
        x: (N, C, H, W), exactly 0 wherever it is unknown.
        share: (N, 1, H, W) in 0..1, the share of the C channels known at each pixel. Its
            window average is all that is needed of the masks: no convolution of C of them.
        weight: (K, C, kh, kw).
        bias: (K,) or None.
        stride: vertical, horizontal.
        padding: rows above and below, columns left and right.

    Returns:
        y (N, K, H', W'), exactly 0 in its holes, and known' (N, 1, H', W') of 0 and 1.
    """
    window = list(weight.shape[-2:])
    coverage = F.avg_pool2d(share, window, list(stride), list(padding))  # padding counts as hole
    seen = coverage > 0
    known = seen.to(x.dtype)
    ratio = known / torch.where(seen, coverage, torch.ones_like(coverage))
    y = F.conv2d(x, weight, None, stride, padding) * ratio
    if bias is not None:
        y = y + bias[:, None, None] * known
    return y, known


partial_conv2d = torch.library.custom_op(
    "pconv_deploy::partial_conv2d",
    renormalised_conv2d,
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor share, Tensor weight, Tensor? bias, int[] stride, int[] padding)"
        " -> (Tensor, Tensor)"
    ),
)
# Shapes and dtypes of the result follow from the arithmetic itself.
partial_conv2d.register_fake(renormalised_conv2d)


class PartialConv2d(nn.Module):
    """Convolve the known pixels only; say which outputs are known.

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
    """

    group_counts: Tensor

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        groups = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        self.group_channels = groups
        self.stride, self.padding = _pair(stride), _pair(padding)
        # Set it when x is known to be 0 wherever it is unknown: it saves a multiplication.
        self.input_is_masked = False
        self.weight = nn.Parameter(torch.empty(out_channels, sum(groups), *_pair(kernel_size)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        counts = torch.tensor(groups, dtype=torch.get_default_dtype())
        self.register_buffer("group_counts", counts[:, None, None], persistent=False)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        convolve = (
            torch.ops.pconv_deploy.partial_conv2d
            if torch.compiler.is_exporting()
            else renormalised_conv2d
        )
        x = x if self.input_is_masked else self._masked(x, known)
        share = self._known_share(known)
        outputs = convolve(x, share, self.weight, self.bias, self.stride, self.padding)
        return cast("tuple[Tensor, Tensor]", outputs)

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


def _pair(size: int | Pair) -> Pair:
    return (size, size) if isinstance(size, int) else size
