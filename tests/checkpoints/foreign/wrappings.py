"""The ways in which training code and tools wrap a state dict before they store it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]


class Bomb:
    """Runs code when it is unpickled: makes a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "a.pth")
    return folder / "a.pth"


def named(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(state: State) -> dict[str, Tensor]:
    """Other weights of the same network, as an average over the training has."""
    weights = (n for n, t in state.items() if t.is_floating_point() and "mask" not in n)
    return {**state, **{name: state[name] * 2 for name in weights}}


def compiled_inside(state: State) -> dict[str, Tensor]:
    """One layer of the network was compiled, another one wrapped, each alone."""
    names = list(state)
    inside = {names[0]: "_orig_mod", names[-1]: "module"}
    return {
        ".".join((*name.split(".")[:-1], inside[name], name.split(".")[-1]))
        if name in inside
        else name: tensor
        for name, tensor in state.items()
    }


def adam(state: State) -> dict[str, Any]:
    moments = {i: {"step": torch.ones(1), "exp_avg": t} for i, t in enumerate(state.values())}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": list(moments)}]}


def views_of_one_storage(state: State) -> dict[str, Tensor]:
    storage = torch.cat([t.flatten().float() for t in state.values()])
    views, start = {}, 0
    for name, tensor in state.items():
        views[name] = storage[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return views


# Each holds one set of weights; where they lie.
ALONE: dict[str, tuple[str | None, Callable[[State], object]]] = {
    "DataParallel": ("module", lambda s: named("module.", s)),
    "torch.compile": ("_orig_mod", lambda s: named("_orig_mod.", s)),
    "both": ("module._orig_mod", lambda s: named("module._orig_mod.", s)),
    "the other way round": ("_orig_mod.module", lambda s: named("_orig_mod.module.", s)),
    "FSDP": ("_fsdp_wrapped_module", lambda s: named("_fsdp_wrapped_module.", s)),
    "layers compiled": (None, compiled_inside),
    "a key": ("generator", lambda s: {"generator": dict(s), "epoch": 3, "best": 0.5}),
    "any key": ("our best so far", lambda s: {"our best so far": dict(s)}),
    "deep": ("a.b.net_G", lambda s: {"a": {"b": {"net_G": dict(s)}, "note": "x"}}),
    "in a list": ("models.0", lambda s: {"models": [dict(s), {"other": torch.ones(2)}]}),
    "with an optimiser": (
        "model",
        lambda s: {"model": dict(s), "optimizer": adam(s), "scheduler": {"last_epoch": 3}},
    ),
    "flat, with an optimiser": (None, lambda s: {**s, "optimizer": adam(s), "epoch": 3}),
    "Lightning": (
        "state_dict.model",
        lambda s: {
            "state_dict": named("model.", s) | {"loss.weight": torch.ones(3)},
            "epoch": 1,
            "global_step": 10,
            "pytorch-lightning_version": "2.5",
            "optimizer_states": [adam(s)],
            "hyper_parameters": {"lr": 0.1},
        },
    ),
    "Lightning, compiled": (
        "state_dict.net._orig_mod",
        lambda s: {"state_dict": named("net._orig_mod.", s)},
    ),
    "AveragedModel": ("module", lambda s: {"n_averaged": torch.tensor(4), **named("module.", s)}),
    "thop": (None, lambda s: {**s, "total_ops": torch.zeros(1), "x.total_params": torch.zeros(1)}),
    "numbers beside": (None, lambda s: {**s, "epoch": torch.tensor(3), "on": torch.tensor(True)}),
    "numbers as keys": ("stages.2", lambda s: {"stages": {1: {"w": torch.ones(2)}, 2: dict(s)}}),
    "two state_dict() of one network": (
        "model",
        lambda s: {key: {n: t.detach() for n, t in s.items()} for key in ("model", "best", "ema")},
    ),
    "views of one storage": (None, lambda s: views_of_one_storage(s)),
    "the same twice": (
        "model",
        lambda s: {"model": dict(s), "best": {n: +t for n, t in s.items()}},
    ),
}
# Each holds several; their keys, of which the second are the averaged ones.
SEVERAL: dict[str, tuple[tuple[str, str], Callable[[State], object]]] = {
    "BasicSR": (
        ("params", "params_ema"),
        lambda s: {"params": dict(s), "params_ema": averaged(s)},
    ),
    "timm": (
        ("state_dict", "state_dict_ema"),
        lambda s: {"state_dict": dict(s), "state_dict_ema": averaged(s), "epoch": 3},
    ),
    "nested": (
        ("model", "ema.module"),
        lambda s: {"model": dict(s), "ema": {"decay": 0.9, "module": averaged(s)}},
    ),
    "flat beside nested": ((".", "ema"), lambda s: {**s, "ema": averaged(s)}),
    "numbers as keys": (("1", "2"), lambda s: {1: dict(s), 2: averaged(s)}),
    "one dictionary": (
        ("state_dict.model", "state_dict.model_ema"),
        lambda s: {"state_dict": named("model.", s) | named("model_ema.", averaged(s))},
    ),
    "the average inside": ((".", "ema"), lambda s: {**s, **named("ema.module.", averaged(s))}),
}
# Each holds the weights at "model", and averages that cannot be read by the network's names.
UNREAD_AVERAGES: dict[str, Callable[[State], object]] = {
    "torch_ema": lambda s: {
        "model": dict(s),
        "ema": {"decay": 0.9, "shadow_params": [t for t in averaged(s).values() if t.dim()]},
    },
    "LitEma": lambda s: {
        **named("model.", s),
        **{"model_ema." + name.replace(".", ""): t for name, t in averaged(s).items()},
    },
}
