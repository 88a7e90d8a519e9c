"""The load on a server: every answer is checked, and what is wrong is counted."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pconv_deploy.errors import EngineError
from pconv_deploy.inpainter import Inpainter
from pconv_deploy.serving.load import measures
from pconv_deploy.serving.load.__main__ import main
from pconv_deploy.serving.load.clients import run_clients
from pconv_deploy.serving.load.exchanges import SIZES, mixed
from pconv_deploy.serving.load.report import Report
from tests.serving.live import serving


def test_wrong_answers_are_counted(engine: Path, inpainter: Inpainter) -> None:
    right = mixed(inpainter, seed=1)
    assert {exchange.kind for exchange in right} == {"tensors", "files", "form"}
    assert {exchange.size for exchange in right} == set(SIZES)
    other = replace(right[0], expected=right[0].expected[:-1] + b"\0")
    nowhere = replace(right[0], request=right[0].request.replace(b"/load/", b"/none/"))
    with serving({"load": engine}) as address:
        sent = iter([*right, other, nowhere])
        tally = asyncio.run(run_clients(address, sent, clients=3))
    assert tally.statuses == {200: len(right) + 1, 404: 1}
    assert (tally.wrong, tally.errors) == (1, 2)
    with pytest.raises(EngineError, match="is gone"):
        asyncio.run(run_clients(address, iter(right), clients=1))


def test_all_of_it_small(
    engine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measures, "_PAUSE", 0.0)
    output = tmp_path / "load.json"
    small = {"requests": 60, "clients": 5, "size": 64, "rounds": 2, "seed": 2}
    main(engine, output, seconds=0.1, **small)
    report = msgspec.json.decode(output.read_bytes(), type=Report)
    assert report.mixed.statuses == {"200": 60}
    assert (report.mixed.wrong, report.mixed.open_files_left) == (0, 0)
    assert report.mixed.rss_mib[-1][0] == 60
    assert report.mixed.rss_growth is None
    assert [one.clients for one in report.throughput] == [4, 16]
    assert "| requests of mixed sizes and kinds | 60 from 5 clients |" in capsys.readouterr().out
