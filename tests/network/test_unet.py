import pytest
import torch

from pconv_deploy.contract import UNetConfig
from pconv_deploy.network.architectures import for_inference, literal_network
from pconv_deploy.network.unet import PConvUNet
from pconv_deploy.parity import ParityInput, parity_inputs
from tests.conftest import TINY, random_network

CONFIGS = {
    "tiny": TINY,
    "one level": UNetConfig(channels=(5,), kernels=(3,)),
    "uneven": UNetConfig(channels=(4, 3, 7), kernels=(5, 3, 1)),
    "sigmoid head": UNetConfig(channels=(4, 6), kernels=(5, 3), head="sigmoid"),
    "ordinary": UNetConfig(channels=(4, 6, 7), kernels=(5, 3, 3), convolution="ordinary"),
}


def as_tensors(case: ParityInput) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.from_numpy(case.image).permute(2, 0, 1)[None].double() / 127.5 - 1
    known = torch.from_numpy(case.hole_mask == 0)[None, None].double()
    return image, known


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equals_the_literal_network_in_double_precision(config: UNetConfig) -> None:
    network = random_network(config).double()
    literal = literal_network(network).double().eval()
    folded = for_inference(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    for case in parity_inputs(48, 64):
        image, known = as_tensors(case)
        with torch.no_grad():
            expected = literal(image, known)
            for candidate in (folded, network):  # which folding leaves alone
                error = (candidate(image, known) - expected).abs().max()
                assert error <= 1e-12 * expected.abs().max(), case.name


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (48, 50), (33, 16)])
def test_any_size_is_padded_with_hole_and_cropped_back(size: tuple[int, int]) -> None:
    network = random_network(TINY).double()
    literal = literal_network(network).double().eval()
    height, width = size
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    known = (torch.rand(2, 1, height, width) > 0.3).double()
    # Values beyond the image must not matter: they are hole.
    rows, columns = -(-height // 16) * 16, -(-width // 16) * 16
    larger = torch.randn(2, 3, rows, columns, dtype=torch.float64)
    larger[..., :height, :width] = image
    larger_known = torch.zeros(2, 1, rows, columns, dtype=torch.float64)
    larger_known[..., :height, :width] = known
    with torch.no_grad():
        filled = network(image, known)
        expected = literal(larger, larger_known)[..., :height, :width]
    assert filled.shape == image.shape
    torch.testing.assert_close(filled, expected, rtol=1e-9, atol=1e-9)


def test_the_default_is_the_papers_network() -> None:
    with torch.device("meta"):
        network = PConvUNet()
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["encoder.0.conv.weight"] == (64, 3, 7, 7)
    assert shapes["encoder.1.conv.weight"] == (128, 64, 5, 5)
    assert shapes["encoder.2.conv.weight"] == (256, 128, 5, 5)
    assert shapes["decoder.0.conv.weight"] == (512, 1024, 3, 3)
    assert shapes["decoder.4.conv.weight"] == (256, 768, 3, 3)
    assert shapes["decoder.7.conv.weight"] == (3, 67, 3, 3)
    assert sum(p.numel() for p in network.parameters()) == 32_859_796


@pytest.mark.parametrize("config", [TINY, CONFIGS["ordinary"]], ids=["partial", "ordinary"])
def test_training_gradients_and_statistics_equal_the_literal_networks(config: UNetConfig) -> None:
    network = random_network(config).double().train()
    literal = literal_network(network).double().train()
    image = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    known = (torch.rand(2, 1, 48, 64) > 0.5).double()
    for candidate in (network, literal):
        candidate(image, known).square().mean().backward()
    expected = dict(literal.named_parameters())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-9, atol=1e-12)
    statistics = dict(literal.named_buffers())
    for name, buffer in network.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, statistics[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "kernels", "message"),
    [
        ((), (), "levels"),
        ((8,) * 11, (3,) * 11, "levels"),
        ((8, 8), (3,), "kernels"),
        ((8,), (4,), "odd"),
    ],
)
def test_impossible_networks_are_refused(
    channels: tuple[int, ...], kernels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(channels=channels, kernels=kernels)
