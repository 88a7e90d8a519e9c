import numpy as np
import pytest
import torch
from torch import Tensor

from pconv_deploy.network.layers import PartialConv2d
from tests.graphs.small_graphs import literal


@pytest.mark.parametrize("share_known", [0.02, 0.9])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "bias"),
    [
        (3, 7, 2, 3, True),
        (3, 3, 1, 1, False),
        ((4, 2), 3, 1, 1, True),
        ((2, 3, 1), (3, 5), (1, 2), (1, 2), False),
        (2, 3, 2, 0, True),
    ],
)
def test_equals_the_equations_tap_by_tap(
    share_known: float,
    channels: int | tuple[int, ...],
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    bias: bool,
) -> None:
    torch.manual_seed(1)
    layer = PartialConv2d(channels, 4, kernel, stride=stride, padding=padding, bias=bias).double()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    groups = 1 if isinstance(channels, int) else len(channels)
    x = torch.randn(2, sum(layer.group_channels), 13, 17, dtype=torch.float64)
    known = (torch.rand(2, groups, 13, 17) < share_known).double()
    with torch.no_grad():
        y, seen = layer(x, known)
    bias_of_each = np.zeros(4) if layer.bias is None else layer.bias.detach().numpy()
    expected_y, expected_seen = literal(
        x.numpy(),
        np.repeat(known.numpy(), layer.group_channels, axis=1),
        layer.weight.detach().numpy(),
        bias_of_each,
        layer.stride,
        layer.padding * 2,
    )
    np.testing.assert_array_equal(seen, expected_seen)
    np.testing.assert_allclose(y, expected_y, rtol=1e-12, atol=1e-12)


def test_is_exactly_zero_where_nothing_is_known() -> None:
    layer = PartialConv2d(2, 3, 3, padding=1)
    assert layer.bias is not None
    torch.nn.init.ones_(layer.bias)
    known = torch.zeros(1, 1, 8, 8)
    known[..., :2] = 1
    y, seen = layer(torch.randn(1, 2, 8, 8), known)
    assert bool((y[..., 3:] == 0).all())
    assert bool((seen[..., 3:] == 0).all())
    assert bool((y[..., :3] != 0).all())


def test_what_a_hole_holds_is_never_read() -> None:
    layer = PartialConv2d(2, 3, 3, padding=1)
    known = (torch.rand(1, 1, 8, 8) > 0.5).float()
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        before, _ = layer(x, known)
        after, _ = layer(torch.where(known > 0, x, 1e30), known)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_no_nan_at_any_coverage(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    layer = PartialConv2d((64, 64), 8, 3, padding=1).to(dtype)
    known = torch.zeros(1, 2, 16, 16, dtype=dtype)
    known[0, 0, 3, 3] = 1  # windows that see 64 of 1152 values
    known[0, :, 8:, 8:] = 1
    x = torch.randn(1, 128, 16, 16).to(dtype)
    with torch.no_grad():
        y, seen = layer(x, known)
        exact_y, exact_seen = layer.double()(x.double(), known.double())
    assert bool(torch.isfinite(y).all())
    assert bool((seen == exact_seen).all())
    error = float((y.double() - exact_y).abs().max() / exact_y.abs().max())
    assert error < {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]


def test_gradients_match_numeric_ones() -> None:
    torch.manual_seed(2)
    layer = PartialConv2d((2, 1), 2, 3, stride=2, padding=1).double()
    assert layer.bias is not None
    known = (torch.rand(1, 2, 6, 6) > 0.4).double()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)

    def output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parameters = {"weight": weight, "bias": bias}
        result: Tensor = torch.func.functional_call(layer, parameters, (x, known))[0]
        return result

    assert torch.autograd.gradcheck(output, (x, layer.weight, layer.bias))


def test_the_operator_is_well_formed() -> None:
    x, mask = torch.randn(2, 3, 9, 9), (torch.rand(2, 3, 9, 9) > 0.5).float()
    weight = torch.randn(4, 3, 3, 3)
    arguments = (x, mask, weight, torch.randn(4), [2, 2], [1, 1], [1, 1], 1)
    torch.library.opcheck(
        torch.ops.pconv_deploy.partial_conv2d,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )
