"""Random inpainting networks as our exporter traces them, written as text."""

from dataclasses import dataclass, field

import numpy as np
import onnx

from tests.graphs.small_graphs import (
    KNOWN,
    NEAREST,
    Array,
    graph,
    partial,
    repeated,
    weights,
)

ACTIVATIONS = (
    "Relu ({})",
    "LeakyRelu <alpha = 0.2> ({})",
    "LeakyRelu <alpha = -0.3> ({})",
    "Identity ({})",
    "Tanh ({})",
)


@dataclass
class RandomNetwork:
    """A U-Net of 2 to 4 levels; every choice by chance.

    Its layers have biases or none, batch norms or none, windows of several sizes; features are
    masked again behind them or not; a level may be followed by a layer of the same size, and some
    skips are joined twice, which makes three groups.
    """

    rng: np.random.Generator
    given: dict[str, Array] = field(default_factory=dict)
    nodes: list[str] = field(default_factory=list)

    def model(self) -> tuple[onnx.ModelProto, int]:
        """Give a graph with the outputs `y` and `seen`, and what its sides are multiples of."""
        levels = int(self.rng.integers(2, 5))
        widths = [3, *(int(k) for k in self.rng.choice([2, 5, 8, 9, 12], levels))]
        self.given |= {
            "scales": np.array([1, 1, 2, 2], np.float32),
            "first": np.array([0]),
            "second": np.array([1]),
        }
        self.nodes = [KNOWN, "features0 = Mul (x, known)\n"]
        skips = [("features0", "known", 3)]
        for level in range(1, levels + 1):
            skips.append(self._layer(f"down{level}", skips[-1:], widths[level], stride=2))
            if self.rng.random() < 0.3:
                skips[-1] = self._layer(f"same{level}", skips[-1:], widths[level])
        below = skips.pop()
        for level in range(levels, 0, -1):
            skip = skips.pop()
            parts = [self._doubled(below), *[skip] * int(self.rng.integers(1, 3))]
            below = self._layer(f"up{level}", parts, widths[level - 1], last=level == 1)
        features, mask, channels = below
        self.nodes += [f"y = Identity ({features})\n", f"seen = Identity ({mask})\n"]
        multiple = 2**levels
        model = graph(
            "float[N,3,H,W] x, float[N,1,H,W] hole_mask",
            f"float[N,{channels},H,W] y, float[N,1,H,W] seen",
            "".join(self.nodes),
            **self.given,
        )
        self._name_sides(model, multiple)
        return onnx.shape_inference.infer_shapes(model, data_prop=True), multiple

    @staticmethod
    def _name_sides(model: onnx.ModelProto, multiple: int) -> None:
        del model.graph.value_info[:]
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim[2:]:
                dim.dim_param = f"{multiple}*{dim.dim_param}"

    def _doubled(self, below: tuple[str, str, int]) -> tuple[str, str, int]:
        features, mask, channels = below
        for name in (features, mask):
            self.nodes.append(f"{name}_large = Resize <{NEAREST}> ({name}, , scales)\n")
        return f"{features}_large", f"{mask}_large", channels

    def _layer(
        self,
        name: str,
        parts: list[tuple[str, str, int]],
        outputs: int,
        *,
        stride: int = 1,
        last: bool = False,
    ) -> tuple[str, str, int]:
        channels = sum(count for _, _, count in parts)
        kernel = int(self.rng.choice([3, 3, 5, 7] if stride > 1 else [1, 3, 3, 5]))
        weight = weights(self.rng, outputs, channels, kernel, kernel)
        self.given[f"{name}_w"] = weight
        self.given[f"{name}_b"] = weights(self.rng, outputs) * (self.rng.random() < 0.5)
        for number, (_, mask, count) in enumerate(parts):
            self.nodes.append(repeated(f"{name}_m{number}", mask, count))
        joined, masks = parts[0][0], f"{name}_m0"
        if len(parts) > 1:
            joined, masks = f"{name}_x", f"{name}_m"
            features = ", ".join(part for part, _, _ in parts)
            each = ", ".join(f"{name}_m{number}" for number in range(len(parts)))
            self.nodes.append(f"{joined} = Concat <axis = 1> ({features})\n")
            self.nodes.append(f"{masks} = Concat <axis = 1> ({each})\n")
        self.nodes.append(
            partial(
                f"{name}_y, {name}_all",
                f"{joined}, {masks}, {name}_w, {name}_b",
                weight,
                mask_channels=channels,
                name=name,
                strides=(stride, stride),
                pads=[kernel // 2] * 4,
            )
        )
        self.nodes.append(f"{name}_seen = Slice ({name}_all, first, second, second)\n")
        return self._finished(name, outputs, last=last)

    def _finished(self, name: str, outputs: int, *, last: bool) -> tuple[str, str, int]:
        """Batch norm, activation and mask, or some of them."""
        y, seen = f"{name}_y", f"{name}_seen"
        if not last and self.rng.random() < 0.6:
            moments = {"gamma": (0.5, 1.5), "beta": (-1, 1), "mean": (-1, 1), "variance": (0.3, 2)}
            self.given |= {
                f"{name}_{k}": self.rng.uniform(*bounds, outputs) for k, bounds in moments.items()
            }
            operands = ", ".join(f"{name}_{k}" for k in moments)
            self.nodes.append(f"[{name}_norm] {name}_n = BatchNormalization ({y}, {operands})\n")
            y = f"{name}_n"
        if not last:
            activation = str(self.rng.choice(ACTIVATIONS)).format(y)
            self.nodes.append(f"{name}_a = {activation}\n")
            y = f"{name}_a"
        if self.rng.random() < 0.7:
            self.nodes.append(f"{name}_h = Mul ({y}, {seen})\n")
            y = f"{name}_h"
        return y, seen, outputs
