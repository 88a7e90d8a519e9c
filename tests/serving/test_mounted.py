"""The application inside of another one, as docs/serving.md shows it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pconv_deploy.errors import EngineError
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving import create_app
from tests.serving.live import ask, encoded, fill, running

Photo = Callable[..., NDArray[np.uint8]]
PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()


def test_the_example_of_the_page(
    engine: Path,
    inpainter: Inpainter,
    photo: Photo,
    box: Photo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "model.engine").symlink_to(engine)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    names["inpainting"].state.service.models["photos"].warm.result(60)
    with running(names["app"]) as address:
        page = ask(address, "/inpainting/").body.decode()
        (script,) = re.findall(r'src="(page/app.js)"', page)
        assert ask(address, f"/inpainting/{script}").status == 200
        answer = fill(address, encoded(photo()), encoded(box()), "photos", below="/inpainting")
        assert np.array_equal(answer.pixels, inpainter(photo(), box()))
    with pytest.raises(EngineError, match="closed"):
        names["inpainting"].state.service.models["photos"].inpainter(photo(), box())


def test_an_engine_that_is_loaded_already(engine: Path, photo: Photo, box: Photo) -> None:
    loaded = Inpainter.load(engine)
    app = create_app({"mine": loaded})
    app.state.service.models["mine"].warm.result(60)
    with running(app) as address:
        assert fill(address, encoded(photo()), encoded(box()), "mine").status == 200
    with pytest.raises(EngineError, match="closed"):
        loaded(photo(), box())


def test_not_ready_before_every_engine_is_warm(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_self: Inpainter, *_args: object, **_options: object) -> None:
        raise EngineError("no memory")

    monkeypatch.setattr(Inpainter, "warm_up", fails)
    with running(create_app({"tiny": engine})) as address:
        for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
            assert ask(address, path).status == 503
        answer = fill(address, b"photo", b"mask")
        assert (answer.status, answer.json["kind"]) == (500, "EngineError")
        assert "tiny cannot be used: no memory" in answer.json["error"]
