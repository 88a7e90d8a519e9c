from pathlib import Path

import msgspec
import pytest

from pconv_deploy.errors import InputError, UsageError
from pconv_deploy.training.config import (
    LossWeights,
    TrainingConfig,
    load_config,
    override_config,
    preset_names,
    read_run_config,
)


def test_the_papers_preset_is_the_default() -> None:
    assert load_config("paper-512") == TrainingConfig()
    assert LossWeights() == LossWeights(valid=1, hole=6, perceptual=0.05, style=120, variation=0.1)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_being_written_down(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    assert read_run_config(tmp_path / "config.json") == config
    assert override_config(config, []) == config


def test_overrides_are_toml_or_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("batch = 3\n[data]\nsize = 64\n")
    config = load_config(path, ["data.size=256", "data.photos=/some/where", "ema=0.5", "seed=7"])
    assert (config.batch, config.data.size, config.data.photos) == (3, 256, "/some/where")
    assert (config.ema, config.seed) == (0.5, 7)
    assert load_config("mini", ["ema=null"]).ema is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sise=3", r"unknown key data.sise \(did you mean size\?\)"),
        ("phases=[{step=3}]", r"unknown key phases\[0\].step \(did you mean steps\?\)"),
        ("zzzzzz=1", "unknown key zzzzzz$"),
        ("batch=0", "--set batch: found 0. Expected `int` >= 1"),
        (
            "data.layout=places",
            '--set data.layout: found "places".*; needed one of folder, imagenet',
        ),
        (
            "phases=[{steps=1, learning_rate=1, schedule='x'}]",
            r'--set phases\[0\].schedule: found "x".*; needed one of constant, cosine',
        ),
        ("phases=[{steps=1}]", r"--set phases\[0\]: learning_rate is missing"),
        ("batch=many", "Expected `int`, got `str`"),
        ("data.size=100", "multiple of 16"),
        ("data.crop=[0.9, 0.5]", "the smaller first"),
        ("batch.x=3", "batch has no keys"),
        ("phases=[]", "length >= 1"),
        ("precision=int8", "Invalid enum value 'int8'"),
        ("size", "needed key=value"),
        ("seed=2020-01-01", "not JSON serializable"),
        ("seed=" + "9" * 5000, "Expected `int`, got `str`"),
        ("seed=9223372036854775808", "<= 9223372036854775807"),
        ("loss.weights.hole=nan", "`float` >= 0"),
    ],
)
def test_settings_that_make_no_sense(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("mini", [override])


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no preset 'minni' \(did you mean mini\?\)"):
        load_config("minni")
    with pytest.raises(InputError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("batch = = 3")
    with pytest.raises(InputError, match="is not valid TOML"):
        load_config(tmp_path / "bad.toml")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_run_config(tmp_path / "config.json")
