"""What a training run is: small TOML files, presets that come with the package, overrides.

Every value has a default, the paper's; a preset names only what differs from it. The settings
are validated as a whole before anything is computed.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pconv_deploy.contract import Normalisation, UNetConfig
from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.files import read_json_bytes
from pconv_deploy.held_file import held_file
from pconv_deploy.training.config_errors import explained

Positive = Annotated[int, Meta(ge=1, le=10**9)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where pictures come from and how training sees them.

    photos      folder, or pattern of WebDataset shards; usually given on the command line
    layout      how the folder is laid out, see `pictures`
    size        height and width of what the network sees, pixels
    crop        random square crops have sides of this share of the picture's shorter side
    flip        mirror half of them
    validation  folder of pictures that training never sees, for a running score; None for none
    workers     processes that decode, for each rank
    """

    photos: str | None = None
    layout: Literal["folder", "imagenet", "places2", "celeba-hq", "webdataset"] = "folder"
    size: Annotated[int, Meta(ge=16, le=4096)] = 512
    crop: tuple[Share, Share] = (0.6, 1.0)
    flip: bool = True
    validation: str | None = None
    workers: Annotated[int, Meta(ge=0, le=256)] = 4

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1]:
            raise ValueError(f"found crop {self.crop}; needed two shares, the smaller first")


class HolesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where holes come from.

    folder      of hole masks, see `hole_masks`; None draws them, evenly over the six area buckets
    convention  which pixels of its files are hole
    threshold   how much so at least, 1..255: see docs/embedding.md, "What is a hole"
    dilate      masks of a folder grow by up to this many pixels, at random
    """

    folder: str | None = None
    convention: Literal["hole-white", "hole-black", "alpha"] = "hole-white"
    threshold: Annotated[int, Meta(ge=1, le=255)] | None = None
    dilate: Annotated[int, Meta(ge=0, le=100)] = 0


class LossWeights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each term counts; the defaults are the paper's (eq. 7), found on 100 pictures."""

    valid: Weight = 1.0
    hole: Weight = 6.0
    perceptual: Weight = 0.05
    style: Weight = 120.0
    variation: Weight = 0.1


class LossConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Terms of the loss.

    features  "none" leaves out the perceptual and style terms: a mode for trials, blurrier
    vgg16     torchvision's VGG-16 weights file
    """

    features: Literal["vgg16", "none"] = "vgg16"
    vgg16: str | None = None
    weights: LossWeights = LossWeights()


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stretch of training at one learning rate, or at one that falls along half a cosine to 0.

    freeze_encoder_norm  the encoder's batch norms keep their statistics and parameters (Liu et
                         al. 2018, section 3.3: holes would otherwise spoil the statistics)
    """

    steps: Positive
    learning_rate: Annotated[float, Meta(gt=0, le=1)]
    freeze_encoder_norm: bool = False
    schedule: Literal["constant", "cosine"] = "constant"


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a run; the defaults are the paper's.

    batch          pictures a step, over all ranks
    micro_batches  parts in which each rank computes its share of the batch, to save memory
    precision      "bf16" and "fp16" compute convolutions in half precision; masks stay exact,
                   weights and ratios in single precision
    ema            decay of the averaged weights that are stored; None stores the last ones
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
    pictures_every: Positive = 1_000  # and the score on data.validation

    def __post_init__(self) -> None:
        if self.data.size % self.network.size_multiple:
            raise ValueError(
                f"found data.size {self.data.size}; a network of {self.network.levels} levels "
                f"needs a multiple of {self.network.size_multiple}"
            )

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    folder = files("pconv_deploy.training").joinpath("presets")
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir()))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a preset or a TOML file, then apply overrides.

    Args:
        source: name of a preset, or path of a TOML file.
        overrides: such as `data.size=256` or `phases=[{steps=100, learning_rate=1e-4}]`; values
            are TOML, `null` is none, and what is no TOML is taken as text.

    Raises:
        UsageError: no such preset, an unknown key (with the nearest known one), or a value that
            makes no sense.
        InputError: a file that cannot be read.
    """
    settings = _read_toml(source)
    for override in overrides:
        _apply(settings, override)
    return _validated(settings, str(source), overrides)


def changed(config: TrainingConfig, overrides: Sequence[str]) -> TrainingConfig:
    """Apply overrides to settings, as `load_config` does.

    Raises:
        UsageError: an unknown key, or a value that makes no sense.
    """
    settings = msgspec.to_builtins(config)
    for override in overrides:
        _apply(settings, override)
    return _validated(settings, "the run's settings", overrides)


def with_absolute_paths(config: TrainingConfig) -> TrainingConfig:
    """Make the settings mean the same files in every current folder."""
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
    if path is None or path.startswith("{/"):  # a pattern of shards on several disks
        return path
    return str(Path.cwd() / path)


def read_run_config(path: Path) -> TrainingConfig:
    """Read the settings a run was started with.

    Raises:
        InputError: missing, or not written by us.
    """
    try:
        return msgspec.json.decode(read_json_bytes(path), type=TrainingConfig)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path} is damaged, or of another version of pconv-deploy: {error}"
        ) from error


def _read_toml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in preset_names():
            raise UsageError(
                f"there is no preset {str(source)!r}{_nearest(str(source), preset_names())}; "
                f"presets are {', '.join(preset_names())}; files end in .toml"
            )
        preset = files("pconv_deploy.training").joinpath("presets", f"{source}.toml")
        return tomllib.loads(preset.read_text(encoding="utf-8"))
    try:
        with held_file(path) as held:
            return tomllib.loads(held.stream.read().decode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, endless numbers, no Unicode
        raise InputError(f"{path} is no TOML: {error}") from error


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"found --set {override!r}; needed key=value, such as data.size=256")
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = settings.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"found --set {override!r}; {parent} has no keys of its own")
        settings = inner
    settings[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text == "null":  # TOML has no word for it
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _validated(
    settings: Mapping[str, Any], source: str, overrides: Sequence[str]
) -> TrainingConfig:
    _check_keys(settings, TrainingConfig, "", source)
    try:
        # Through JSON's types, so that integers are taken for floats and lists for tuples.
        return msgspec.convert(json.loads(json.dumps(settings)), TrainingConfig)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        keys = [override.partition("=")[0].strip() for override in overrides]
        raise UsageError(
            explained(str(error), settings, TrainingConfig, source=source, set_by_hand=keys)
        ) from error


def _check_keys(settings: Mapping[str, Any], kind: Any, where: str, source: str) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in settings.items():
        if key not in known:
            raise UsageError(f"{source}: unknown key {where}{key}{_nearest(key, known)}")
        inner = known[key]
        if isinstance(value, Mapping) and isinstance(inner, type):
            if issubclass(inner, msgspec.Struct):
                _check_keys(value, inner, f"{where}{key}.", source)
        elif key == "phases" and isinstance(value, list):
            for number, phase in enumerate(value):
                if isinstance(phase, Mapping):
                    _check_keys(phase, Phase, f"phases[{number}].", source)


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    if word in ("steps", "learning_rate", "schedule"):
        return ' (a key of phases: --set "phases=[{steps=100, learning_rate=1e-3}]")'
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
