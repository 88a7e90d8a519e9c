"""Settings of a training run: presets of the package, TOML files, overrides.

Every setting defaults to the paper's value; a preset lists only what differs. All settings are
validated before training starts.
"""

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pconv_deploy.contract import Normalisation, UNetConfig
from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.files import read_json_bytes
from pconv_deploy.held_file import held_file
from pconv_deploy.training.config_errors import explain, suggestion

Positive = Annotated[int, Meta(ge=1, le=10**9)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training images and their augmentation.

    photos      folder, or pattern of WebDataset shards; usually given on the command line
    layout      directory layout of the folder, see `pictures`
    size        height and width of the network's input, pixels
    crop        range of the side of random square crops, as a fraction of the shorter side
    flip        mirror half of the crops
    validation  folder of images for validation, never trained on; None: no validation
    workers     decoding processes per rank
    """

    photos: str | None = None
    layout: Literal["folder", "imagenet", "places2", "celeba-hq", "webdataset"] = "folder"
    size: Annotated[int, Meta(ge=16, le=4096)] = 512
    crop: tuple[Fraction, Fraction] = (0.6, 1.0)
    flip: bool = True
    validation: str | None = None
    workers: Annotated[int, Meta(ge=0, le=256)] = 4

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1]:
            raise ValueError(f"found crop {self.crop}; needed two fractions, the smaller first")


class HolesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Source of hole masks.

    folder      folder of hole masks; None: drawn at random, evenly over the six area classes
    convention  which pixels of a mask file are hole
    threshold   lowest level that is hole, 1..255: see docs/embedding.md, "What is a hole"
    dilate      dilate masks from files by a random 0 to `dilate` pixels
    """

    folder: str | None = None
    convention: Literal["hole-white", "hole-black", "alpha"] = "hole-white"
    threshold: Annotated[int, Meta(ge=1, le=255)] | None = None
    dilate: Annotated[int, Meta(ge=0, le=100)] = 0


class LossWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weight of each loss term; defaults from the paper (eq. 7), tuned there on 100 images."""

    valid: Weight = 1.0
    hole: Weight = 6.0
    perceptual: Weight = 0.05
    style: Weight = 120.0
    variation: Weight = 0.1


class LossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of the loss.

    features  "none" omits the perceptual and style terms: for trials; fills are blurrier
    vgg16     path of torchvision's VGG-16 weights
    """

    features: Literal["vgg16", "none"] = "vgg16"
    vgg16: str | None = None
    weights: LossWeights = LossWeights()


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training phase with a constant learning rate or a cosine decay to 0.

    freeze_encoder_norm  freeze statistics and parameters of the encoder's batch norms (Liu et al.
                         2018, section 3.3: holes would otherwise distort the statistics)
    """

    steps: Positive
    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    freeze_encoder_norm: bool = False
    schedule: Literal["constant", "cosine"] = "constant"


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run; the defaults are the paper's.

    batch          images per step, over all ranks
    micro_batches  gradient accumulation steps per rank, to save memory
    precision      "bf16" and "fp16" compute convolutions in half precision; masks stay exact,
                   weights and normalisation ratios stay in single precision
    ema            decay of the exponential moving average of weights that is stored; None: store
                   the last weights
    keep           checkpoints to keep
    pictures_every steps between example images and validation
    """

    network: UNetConfig = UNetConfig()
    normalisation: Normalisation = Normalisation()
    data: DataConfig = DataConfig()
    holes: HolesConfig = HolesConfig()
    loss: LossConfig = LossConfig()
    phases: Annotated[tuple[Phase, ...], Meta(min_length=1)] = (
        Phase(steps=500_000, learning_rate=2e-4),
        Phase(steps=500_000, learning_rate=5e-5, freeze_encoder_norm=True),
    )
    batch: Annotated[int, Meta(ge=1, le=65536)] = 6
    micro_batches: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    ema: Annotated[float, Meta(gt=0, lt=1)] | None = None
    channels_last: bool = False
    compile: bool = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    save_every: Positive = 5_000
    keep: Positive = 3
    log_every: Positive = 100
    pictures_every: Positive = 1_000

    def __post_init__(self) -> None:
        if self.data.size % self.network.size_multiple:
            raise ValueError(
                f"found data.size {self.data.size}; a network of {self.network.levels} levels "
                f"needs a multiple of {self.network.size_multiple}"
            )

    @property
    def steps(self) -> int:
        """Number of steps of all phases."""
        return sum(phase.steps for phase in self.phases)


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets in the package."""
    folder = files("pconv_deploy.training").joinpath("presets")
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir()))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a preset or a TOML file, then apply overrides.

    Args:
        source: name of a preset, or path of a TOML file.
        overrides: such as `data.size=256` or `phases=[{steps=100, learning_rate=1e-4}]`; values
            are TOML, or `null` for None; any other text is taken as a string.

    Raises:
        UsageError: unknown preset, unknown key (with the closest valid one), or invalid value.
        InputError: a file that cannot be read.
    """
    return _with_overrides(_read_toml(source), str(source), overrides)


def override_config(config: TrainingConfig, overrides: Sequence[str]) -> TrainingConfig:
    """Apply overrides to settings, as `load_config` does.

    Raises:
        UsageError: unknown key or invalid value.
    """
    return _with_overrides(msgspec.to_builtins(config), "the run's settings", overrides)


def with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """Make all paths absolute, so that the run can be resumed from any working directory."""
    replace = msgspec.structs.replace
    return replace(
        config,
        data=replace(
            config.data,
            photos=_absolute(config.data.photos),
            validation=_absolute(config.data.validation),
        ),
        holes=replace(config.holes, folder=_absolute(config.holes.folder)),
        loss=replace(config.loss, vgg16=_absolute(config.loss.vgg16)),
    )


def _absolute(path: str | None) -> str | None:
    if path is None or path.startswith("{/"):  # absolute shard pattern over several disks
        return path
    return str(Path.cwd() / path)


def read_run_config(path: Path) -> TrainingConfig:
    """Read config.json of a run.

    Raises:
        InputError: missing, damaged or written by another version.
    """
    try:
        return msgspec.json.decode(read_json_bytes(path), type=TrainingConfig)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path} is damaged or from another version of pconv-deploy: {error}"
        ) from error


def _read_toml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in preset_names():
            raise UsageError(
                f"no preset {str(source)!r}{suggestion(str(source), preset_names())}; available: "
                f"{', '.join(preset_names())}, or a file that ends in .toml"
            )
        preset = files("pconv_deploy.training").joinpath("presets", f"{source}.toml")
        return tomllib.loads(preset.read_text(encoding="utf-8"))
    try:
        with held_file(path) as held:
            return tomllib.loads(held.stream.read().decode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also: digits beyond int's limit, invalid UTF-8
        raise InputError(f"{path} is not valid TOML: {error}") from error


def _with_overrides(
    settings: dict[str, Any], source: str, overrides: Sequence[str]
) -> TrainingConfig:
    for override in overrides:
        _apply(settings, override)
    try:
        # The JSON round trip turns integers into floats and lists into tuples where needed.
        return msgspec.convert(json.loads(json.dumps(settings)), TrainingConfig)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        keys = [override.partition("=")[0].strip() for override in overrides]
        raise UsageError(
            explain(str(error), settings, TrainingConfig, source=source, overridden=keys)
        ) from error


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"found --set {override!r}; needed key=value, such as data.size=256")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = settings.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"found --set {override!r}; {parent} has no keys")
        settings = inner
    settings[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text == "null":  # TOML has no null
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
