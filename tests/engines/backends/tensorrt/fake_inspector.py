"""TensorRT's engine inspector as NVIDIA documents it: no inspector has been read on a GPU.

It tells of the layers of all profiles, marks those after the first profile's, and knows sizes and
formats only of what is in the profile of its context, and only once all shapes there are set.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from pconv_deploy.engines.shapes import Profile

FREE = "N/A due to dynamic shapes"
_INPUTS = {"image", "hole_mask"}


class FakeContext:
    def __init__(self, profiles: Sequence[Profile]) -> None:
        self.profiles, self.profile = profiles, 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.profile, self.shapes = profile, {}
        return 0 <= profile < len(self.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in _INPUTS or not self.profiles[self.profile].takes(shape[:3]):  # type: ignore[arg-type]
            return False
        self.shapes[name] = shape
        return True


class FakeInspector:
    def __init__(self, layers: Sequence[Mapping[str, Any]], profiles: Sequence[Profile]) -> None:
        self._layers, self._profiles = layers, profiles
        self.execution_context: FakeContext | None = None

    def get_engine_information(self, form: Any) -> str:
        assert form.name == "JSON"
        marks = [f" [profile {n}]" if n else "" for n in range(len(self._profiles))]
        layers = [
            self._layer(layer, profile, mark)
            for profile, mark in enumerate(marks)
            for layer in self._layers
        ]
        bindings = [name + mark for mark in marks for name in ("image", "filled")]
        return json.dumps({"Layers": layers, "Bindings": bindings})

    def _layer(self, layer: Mapping[str, Any], profile: int, mark: str) -> dict[str, Any]:
        told = copy.deepcopy(dict(layer))
        told["Name"] += mark
        context = self.execution_context
        if context is None or context.profile != profile or set(context.shapes) != _INPUTS:
            for tensor in (*told["Inputs"], *told["Outputs"]):
                tensor["Dimensions"] = [-1, tensor["Dimensions"][1], -1, -1]
                tensor["Format/Datatype"] = FREE
        return told


class FakeEngine:
    """`layers` are those of every profile; `contexts`: whether it gives any."""

    def __init__(
        self,
        library: ModuleType,
        layers: Sequence[Mapping[str, Any]],
        profiles: Sequence[Profile],
        *,
        contexts: bool = True,
    ) -> None:
        self._library, self._layers, self._profiles = library, layers, profiles
        self._contexts = contexts
        self.num_optimization_profiles = len(profiles)

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector(self._layers, self._profiles)

    def create_execution_context(self, strategy: Any) -> FakeContext | None:
        assert strategy == self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        return FakeContext(self._profiles) if self._contexts else None
