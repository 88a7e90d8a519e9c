"""Networks of other projects: files as they write them, and their arithmetic written literally.

Each `*_fill` follows its project's description with its own masks of full depth, ratio, epsilon,
order of concatenation, biases, batch norm and head, and reads the file's own tensors by name. It
knows nothing of `pconv_deploy`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
CHANNELS, KERNELS = (5, 6, 8), (7, 5, 3)


def naoto_state(
    channels: tuple[int, ...] = CHANNELS, kernels: tuple[int, ...] = KERNELS
) -> "OrderedDict[str, Tensor]":
    generator = torch.Generator().manual_seed(len(channels))
    state: OrderedDict[str, Tensor] = OrderedDict()
    widths = (3, *channels)
    for half in ("enc", "dec"):
        for i in range(1, len(widths)):
            down = half == "enc"
            out, into = (
                (widths[i], widths[i - 1]) if down else (widths[i - 1], sum(widths[i - 1 : i + 1]))
            )
            k = kernels[i - 1] if down else 3
            area = into * k * k
            name = f"{half}_{i}"
            weight = torch.randn(out, into, k, k, generator=generator)
            # 1 / known: features would vanish without weights as large as windows.
            state[f"{name}.conv.input_conv.weight"] = weight * (2 * area) ** 0.5
            if (half, i) == ("dec", 1):
                state[f"{name}.conv.input_conv.bias"] = torch.randn(out, generator=generator)
            state[f"{name}.conv.mask_conv.weight"] = torch.ones(out, into, k, k)
            if i > 1:
                state |= torch_norm(f"{name}.bn", out, generator)
    return state


def torch_norm(name: str, channels: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.rand(channels, generator=generator) + 0.5,
        f"{name}.bias": torch.randn(channels, generator=generator) * 0.5,
        f"{name}.running_mean": torch.randn(channels, generator=generator) * 0.5,
        f"{name}.running_var": torch.rand(channels, generator=generator) * 1.5 + 0.2,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def naoto_fill(state: Mapping[str, Tensor], image: Array, known: Array) -> Array:
    """image (N, 3, H, W) in 0..1, known (N, 1, H, W) -> (N, 3, H, W) in 0..1, float64."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[None, :, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[None, :, None, None]

    def layer(name: str, x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        weight = state[f"{name}.conv.input_conv.weight"].double()
        bias = state.get(f"{name}.conv.input_conv.bias")
        offset = 0.0 if bias is None else bias.double()[None, :, None, None]
        pad = (weight.shape[-1] - 1) // 2
        total = F.conv2d(mask, torch.ones_like(weight), stride=stride, padding=pad)
        y = F.conv2d(x * mask, weight, stride=stride, padding=pad)
        y = torch.where(total == 0, torch.zeros_like(y), y / total + offset)
        if f"{name}.bn.weight" in state:
            y = torch_batch_norm(state, f"{name}.bn", y)
        return y, (total != 0).double()

    depth = sum(name.endswith("conv.input_conv.weight") for name in state) // 2
    h = [(torch.from_numpy(image).double() - mean) / std]
    m = [torch.from_numpy(known).double().expand_as(h[0])]
    for i in range(1, depth + 1):
        y, mask = layer(f"enc_{i}", h[-1], m[-1], 2)
        h.append(F.relu(y))
        m.append(mask)
    y, mask = h[-1], m[-1]
    for i in range(depth, 0, -1):
        y, mask = F.interpolate(y, scale_factor=2), F.interpolate(mask, scale_factor=2)
        y, mask = torch.cat([y, h[i - 1]], 1), torch.cat([mask, m[i - 1]], 1)
        y, mask = layer(f"dec_{i}", y, mask, 1)
        y = F.leaky_relu(y, 0.2) if i > 1 else y
    return (y * std + mean).numpy()


def torch_batch_norm(state: Mapping[str, Tensor], name: str, y: Tensor) -> Tensor:
    weight, bias, mean, var = (
        state[f"{name}.{part}"].double()[None, :, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / (var + 1e-5).sqrt() * weight + bias


def mmagic_state(
    channels: tuple[int, ...] = CHANNELS, kernels: tuple[int, ...] = KERNELS
) -> "OrderedDict[str, Tensor]":
    generator = torch.Generator().manual_seed(1 + len(channels))
    state: OrderedDict[str, Tensor] = OrderedDict()
    inputs = (3, *channels)
    for i, (before, after, k) in enumerate(zip(inputs, channels, kernels, strict=False), start=1):
        for name, out, into, side in (
            (f"generator.encoder.enc{i}", after, before, k),
            (f"generator.decoder.dec{i}", before, after + before, 3),
        ):
            fan = into * side * side
            state[f"{name}.conv.weight"] = (
                torch.randn(out, into, side, side, generator=generator) * (2 / fan) ** 0.5
            )
            state[f"{name}.conv.weight_mask_updater"] = torch.ones(out, into, side, side)
            if i == 1:
                state[f"{name}.conv.bias"] = torch.randn(out, generator=generator)
            else:
                state |= torch_norm(f"{name}.bn", out, generator)
    # What trained with it lies beside it.
    state["loss_percep.vgg.vgg_layers.0.weight"] = torch.randn(4, 3, 3, 3, generator=generator)
    return state


def mmagic_fill(state: Mapping[str, Tensor], image: Array, known: Array) -> Array:
    """image (N, 3, H, W) in 0..1, known (N, 1, H, W) -> (N, 3, H, W) in 0..1, float64."""
    dataset_mask = 1.0 - torch.from_numpy(known).double()  # 1 = hole

    def layer(name: str, x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        weight = state[f"{name}.conv.weight"].double()
        pad = weight.shape[-1] // 2
        window = weight.shape[1] * weight.shape[2] * weight.shape[3]
        updated = F.conv2d(mask, torch.ones_like(weight), stride=stride, padding=pad)
        ratio = window / (updated + 1e-8)
        updated = updated.clamp(0, 1)
        ratio = ratio * updated
        bias = state.get(f"{name}.conv.bias")
        if bias is None:
            y = F.conv2d(x * mask, weight, stride=stride, padding=pad) * ratio
        else:
            b = bias.double()
            y = F.conv2d(x * mask, weight, b, stride=stride, padding=pad)
            b = b.view(1, -1, 1, 1)
            y = ((y - b) * ratio + b) * updated
        if f"{name}.bn.weight" in state:
            y = torch_batch_norm(state, f"{name}.bn", y)
        return y, updated

    depth = sum(name.endswith("weight_mask_updater") for name in state) // 2
    mask = (1.0 - dataset_mask).repeat(1, 3, 1, 1)
    x = (torch.from_numpy(image).double() * 255 - 127.5) / 127.5 * mask
    kept = [(x, mask)]
    for i in range(1, depth + 1):
        x, mask = layer(f"generator.encoder.enc{i}", x, mask, 2)
        x = F.relu(x)
        kept.append((x, mask))
    for i in range(depth, 0, -1):
        skip, skip_mask = kept[i - 1]
        x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], dim=1)
        mask = torch.cat([F.interpolate(mask, scale_factor=2, mode="nearest"), skip_mask], dim=1)
        x, mask = layer(f"generator.decoder.dec{i}", x, mask, 1)
        x = F.leaky_relu(x, 0.2) if i > 1 else x
    return ((x * 127.5 + 127.5) / 255).numpy()


def keras_layers(
    channels: tuple[int, ...] = CHANNELS, kernels: tuple[int, ...] = KERNELS
) -> list[tuple[str, dict[str, Array]]]:
    """Layers in the order in which the project's code makes them, kinds instead of names."""
    rng = np.random.default_rng(len(channels))

    def conv(side: int, into: int, out: int) -> tuple[str, dict[str, Array]]:
        # Variances as small as Keras' epsilon shows, and features of their size.
        kernel = rng.normal(size=(side, side, into, out)) * 0.1 * np.sqrt(2 * into / side**2)
        return "p_conv2d", {"img_kernel": kernel, "bias": 0.1 * rng.normal(size=out)}

    def norm(kind: str, width: int) -> tuple[str, dict[str, Array]]:
        return kind, {
            "gamma": rng.uniform(0.5, 1.5, width),
            "beta": rng.normal(size=width) * 0.5,
            "moving_mean": rng.normal(size=width) * 0.1,
            "moving_variance": rng.uniform(0.005, 0.05, width),
        }

    layers = []
    widths = (3, *channels)
    for i, side in enumerate(kernels):
        layers.append(conv(side, widths[i], widths[i + 1]))
        if i:
            layers.append(norm(f"EncBN{i}", widths[i + 1]))
    for i in reversed(range(len(channels))):
        layers.append(conv(3, widths[i] + widths[i + 1], widths[i]))
        if i:
            layers.append(norm("batch_normalization", widths[i]))
    head = {"kernel": 10 * rng.normal(size=(1, 1, 3, 3)), "bias": rng.normal(size=3)}
    layers.append(("conv2d", head))
    return [
        (kind, {part: values.astype(np.float32) for part, values in parts.items()})
        for kind, parts in layers
    ]


def write_keras(
    path: Path, layers: list[tuple[str, dict[str, Array]]], first: int = 0, place: str = ""
) -> None:
    """As save_weights does, in a session that has made `first` layers of each kind before."""
    made: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        root = file.require_group(place) if place else file
        names = []
        for kind, parts in layers:
            number = made[kind] = made.get(kind, first - 1) + 1
            name = kind if kind.startswith("EncBN") or not number else f"{kind}_{number}"
            names.append(name)
            for part, values in parts.items():
                root[f"{name}/{name}/{part}:0"] = values
            root[name].attrs["weight_names"] = [f"{name}/{part}:0".encode() for part in parts]
        root.attrs["layer_names"] = [name.encode() for name in names]
        root.attrs["backend"] = b"tensorflow"
        for name in ("activation", "up_sampling2d"):  # layers without weights are groups too
            root.create_group(name)


def write_keras3(
    path: Path, layers: list[tuple[str, dict[str, Array]]], *, masks: bool = False
) -> None:
    """As Keras 3.15 writes .weights.h5: variables numbered, layers called by their class."""
    made: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for kind, parts in layers:
            by_class = "batch_normalization" if kind.startswith("EncBN") else kind
            number = made[by_class] = made.get(by_class, -1) + 1
            name = f"{by_class}_{number}" if number else by_class
            ones = [np.ones_like(parts["img_kernel"])] if masks and "img_kernel" in parts else []
            for variable, values in enumerate([*parts.values(), *ones]):
                file[f"layers/{name}/vars/{variable}"] = values
        file.create_group("layers/activation/vars")
        file["optimizer/vars/0"] = 7
        file.create_group("vars")


def keras_fill(layers: list[tuple[str, dict[str, Array]]], image: Array, known: Array) -> Array:
    """image (N, 3, H, W) in 0..1, known (N, 1, H, W) -> (N, 3, H, W) in 0..1, float64."""
    waiting = list(layers)

    def correlate(x: Array, kernel: Array, stride: int) -> Array:
        side = kernel.shape[0]
        pad = (side - 1) // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows, columns = ((n - side) // stride + 1 for n in x.shape[1:3])
        y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
        for i in range(side):
            for j in range(side):
                seen = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
                y += seen[:, :rows, :columns] @ kernel[i, j].astype(np.float64)
        return y

    def pconv(x: Array, mask: Array, stride: int, *, norm: bool) -> tuple[Array, Array]:
        _, parts = waiting.pop(0)
        kernel = parts["img_kernel"]
        y = correlate(x * mask, kernel, stride)
        total = correlate(mask, np.ones_like(kernel), stride)
        clipped = np.clip(total, 0, 1)
        y = y * (kernel.shape[0] * kernel.shape[1] / (total + 1e-8) * clipped)
        y = y + parts["bias"].astype(np.float64)  # in holes too
        if norm:
            _, bn = waiting.pop(0)
            gamma, beta, mean, variance = (
                bn[k].astype(np.float64)
                for k in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            y = gamma * (y - mean) / np.sqrt(variance + 1e-3) + beta
        return y, clipped

    def leaky(y: Array) -> Array:
        return np.maximum(y, 0.2 * y)

    depth = sum(kind == "p_conv2d" for kind, _ in layers) // 2
    x = image.transpose(0, 2, 3, 1).astype(np.float64)
    mask = np.repeat(known.transpose(0, 2, 3, 1).astype(np.float64), 3, axis=-1)
    kept = [(x, mask)]
    for i in range(depth):
        x, mask = pconv(x, mask, 2, norm=i > 0)
        x = np.maximum(x, 0)
        kept.append((x, mask))
    for i in reversed(range(depth)):
        up, up_mask = (t.repeat(2, axis=1).repeat(2, axis=2) for t in (x, mask))
        x = np.concatenate([kept[i][0], up], axis=-1)
        mask = np.concatenate([kept[i][1], up_mask], axis=-1)
        x, mask = pconv(x, mask, 1, norm=i > 0)
        x = leaky(x)
    _, head = waiting.pop(0)
    assert not waiting
    y = x @ head["kernel"][0, 0].astype(np.float64) + head["bias"]
    filled: Array = 0.5 + 0.5 * np.tanh(y / 2)  # the sigmoid
    return filled.transpose(0, 3, 1, 2)
