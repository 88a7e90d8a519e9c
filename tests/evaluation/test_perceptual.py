from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pconv_deploy.errors import InputError
from pconv_deploy.evaluation import perceptual, weights
from pconv_deploy.evaluation.inception import InceptionV3, resized_like_tensorflow
from pconv_deploy.evaluation.perceptual import (
    Lpips,
    as_features,
    frechet_distance,
    inception_score,
    load_heads,
    load_inception,
)
from pconv_deploy.evaluation.weights import WeightFiles, located
from pconv_deploy.training.vgg import vgg16_from
from tests.evaluation.made_up import inception_weights, lpips_heads, vgg16_weights


def test_lpips_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = torch.rand(2, 1, 3, 36, 40, generator=generator)
    vgg, heads = vgg16_weights(), lpips_heads()
    # The scaling of the reference implementation, for pictures in -1..1.
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    maps = []
    for picture in (first, second):
        x = ((2 * picture - 1 - shift[:, None, None]) / scale[:, None, None]).double()
        stages, place = [], 0
        for convolutions in (2, 2, 3, 3, 3):
            for _ in range(convolutions):
                weight, bias = (vgg[f"features.{place}.{n}"].double() for n in ("weight", "bias"))
                x = F.conv2d(x, weight, bias, padding=1).relu()
                place += 2
            stages.append(x[0].numpy())
            x, place = F.max_pool2d(x, 2), place + 1
        maps.append(stages)
    expected = 0.0
    for a, b, head in zip(*maps, heads.values(), strict=True):
        for row, column in np.ndindex(a.shape[1:]):
            f, g = a[:, row, column], b[:, row, column]
            difference = f / np.linalg.norm(f) - g / np.linalg.norm(g)
            share = head.flatten().double().numpy() @ difference**2
            expected += share / (a.shape[1] * a.shape[2])
    network = Lpips(vgg16_from(vgg, 5), [head[0] for head in heads.values()])
    assert float(network(first, second)) == pytest.approx(expected, rel=1e-4)
    assert float(network(first, first)) == 0


def test_inception_gives_torch_fidelitys_numbers() -> None:
    network = InceptionV3().double()
    network.load_state_dict(inception_weights(), strict=False)
    picture = np.random.default_rng(1).integers(0, 256, (1, 3, 40, 56), np.uint8)
    features, logits = network(torch.from_numpy(picture))
    assert features.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    # By torch-fidelity 0.4.0, FeatureExtractorInceptionV3 in float64, with the same weights.
    expected = [0.0, 0.98371, 9.81695, 0.0, 15.34509, 9.05885]
    assert features[0, ::400].tolist() == pytest.approx(expected, abs=2e-4)
    expected = [-9.53312, 7.58677, 32.59055, 2.89189, 7.20399, 30.06686]
    assert logits[0, ::200].tolist() == pytest.approx(expected, abs=2e-4)
    assert float(features.mean()) == pytest.approx(8.615492820739746, rel=1e-5)


def test_resizing_is_tensorflows() -> None:
    x = torch.rand(1, 1, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = resized_like_tensorflow(x, 9)[0, 0]
    for row, column in np.ndindex(9, 9):
        v, h = row * 5 / 9, column * 7 / 9
        top, left = int(v), int(h)
        below, right = min(top + 1, 4), min(left + 1, 6)
        v, h = v - top, h - left
        expected = (
            (1 - v) * ((1 - h) * x[0, 0, top, left] + h * x[0, 0, top, right])
            + v * ((1 - h) * x[0, 0, below, left] + h * x[0, 0, below, right])
        )  # fmt: skip
        assert float(found[row, column]) == pytest.approx(float(expected))


@pytest.mark.parametrize(("n", "m"), [(60, 50), (7, 9)], ids=["full rank", "few pictures"])
def test_frechet_distance_against_matrix_roots(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12))
    second = rng.normal(size=(m, 12)) @ rng.normal(size=(12, 12)) + 0.5
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    r1 = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(r1 @ s2 @ r1).clip(min=0)).sum()
    between = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = between + np.trace(s1) + np.trace(s2) - 2 * shared
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first[:1], second) is None


def test_inception_score_against_loops() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 10)) * 3
    p = np.array([np.exp(row) / np.exp(row).sum() for row in logits])
    marginal = p.mean(0)
    divergences = [sum(q * np.log(q / r) for q, r in zip(row, marginal, strict=True)) for row in p]
    assert inception_score(logits) == pytest.approx(np.exp(np.mean(divergences)))
    assert inception_score(logits[:1]) == pytest.approx(1)
    assert inception_score(logits[:0]) is None


def test_features_survive_the_journal() -> None:
    both = np.random.default_rng(0).normal(size=(2, 3056)).astype("<f4")
    features, logits = as_features([row.tobytes() for row in both])
    np.testing.assert_array_equal(features, both[:, :2048])
    np.testing.assert_array_equal(logits, both[:, 2048:])


def test_files_are_known_by_their_hash(tmp_path: Path) -> None:
    torch.save(lpips_heads(), tmp_path / "x.pth")
    for load, wanted in ((load_heads, "v0.1/vgg.pth"), (load_inception, "pt_inception-2015-12-05")):
        with pytest.raises(InputError, match=rf"is not .*{wanted}.*its SHA-256 begins with"):
            load(tmp_path / "x.pth")
        with pytest.raises(InputError, match="No such file"):
            load(tmp_path / "none.pth")


def test_weights_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "LPIPS_SHA256_PREFIX", "")
    monkeypatch.setattr(perceptual, "INCEPTION_SHA256_PREFIX", "")
    path = tmp_path / "x.pth"
    torch.save(lpips_heads() | {"lin4.model.1.weight": torch.zeros(1, 256, 1, 1)}, path)
    with pytest.raises(InputError, match=r"of another network: lin4.*256.*needed.*512"):
        load_heads(path)
    with pytest.raises(InputError, match=r"of another network: Conv2d_1a.*found nothing"):
        load_inception(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        load_heads(path)


def test_the_heads_come_from_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vgg = tmp_path / "vgg.pth"
    vgg.write_bytes(b"")
    monkeypatch.setattr(weights, "_LPIPS_PACKAGES", (("notthere", "x"), ("someheads", "a/vgg.pth")))
    with pytest.raises(InputError, match=r"--lpips-heads, or pip install torchmetrics"):
        located(WeightFiles(vgg16=vgg))
    (tmp_path / "someheads" / "a").mkdir(parents=True)
    (tmp_path / "someheads" / "__init__.py").write_text("1 / 0")  # it is not imported
    (tmp_path / "someheads" / "a" / "vgg.pth").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert located(WeightFiles(vgg16=vgg)).lpips_heads == tmp_path / "someheads" / "a" / "vgg.pth"
    assert located(WeightFiles()) == WeightFiles()
