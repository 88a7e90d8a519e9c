from pconv_deploy.training.config import load_config
from pconv_deploy.training.speed import as_markdown, measure


def test_both_formulations_train_alike_and_are_compared() -> None:
    speed = measure(load_config("mini").network, batch=2, size=32, rounds=3)
    assert max(speed.gradient_error.values()) < 1e-5
    assert speed.ratio[0] <= speed.ratio[1] <= speed.ratio[2]
    assert all(mib > 50 for mib in speed.peak_mib.values())
    assert "| collapsed | " in as_markdown(speed)
