from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import onnx
import pytest
from typer.testing import CliRunner

from pconv_deploy import timing
from pconv_deploy.cli.main import app
from pconv_deploy.contract import GraphContract
from pconv_deploy.engines import prepared_graph, tuning
from pconv_deploy.engines.base import Traits
from pconv_deploy.engines.folder import BuildOptions, build_engine, open_engine
from pconv_deploy.engines.int8.calibration import CalibrationFiles
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.manifest import read_manifest
from pconv_deploy.engines.sessions import EngineFiles
from pconv_deploy.engines.tuning import TuneOptions, Tuner
from pconv_deploy.errors import ParityError, UsageError
from pconv_deploy.graphs.file import read_graph

TRAITS = Traits(device="cpu", extra="openvino")


@dataclass
class PretendClock:
    """Time passes only where somebody computes or sleeps, so that tuning can be predicted."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class PretendBackend:
    """Takes as long for a graph as its arrangement says."""

    clock: PretendClock
    cost: Any
    arrangement: Arrangement = field(default_factory=Arrangement)
    built: list[Arrangement] = field(default_factory=list)

    def usual_form(self, _precision: Any) -> Arrangement:
        return self.arrangement

    def build(self, graph: bytes, _contract: Any, _precision: Any, folder: Path) -> None:
        (folder / "graph").write_bytes(graph)

    def open(self, files: EngineFiles, _precision: Any, _options: Any) -> Any:
        arrangement = msgspec.json.decode(files.read("graph"), type=Arrangement)
        self.built.append(arrangement)

        def run(_inputs: Any) -> None:
            self.clock.now += self.cost(arrangement)

        return SimpleNamespace(run=run, close=lambda: None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PretendClock:
    clock = PretendClock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


@pytest.fixture(scope="module")
def contract(graph: Path) -> GraphContract:
    return read_graph(graph).contract


def tuned(
    clock: PretendClock,
    contract: GraphContract,
    cost: Any,
    differs: Any = lambda _arrangement: False,
) -> tuple[Arrangement, tuning.Tuning, Sequence[str]]:
    said: list[str] = []

    def why_rejected(_model: Any, folder: Path, _plan: Any) -> str | None:
        form = msgspec.json.decode((folder / "graph").read_bytes(), type=Arrangement)
        return "it differs" if differs(form) else None

    tuner = Tuner(
        model=lambda a: SimpleNamespace(SerializeToString=lambda: msgspec.json.encode(a)),  # type: ignore[arg-type,return-value]
        sites=3,
        backend=PretendBackend(clock, cost),  # type: ignore[arg-type]
        contract=contract,
        precision="fp32",
        options=TuneOptions(size=(30, 40), batch=2, threads=1),
        progress=said.append,
        why_rejected=why_rejected,
    )
    result = tuner.tune()
    return result.best, result, said


def costs_of(**seconds: float) -> dict[Upsampling, float]:
    """Seconds of each form; 9 of those that are not named."""
    return {form: seconds.get(form, 9) for form in get_args(Upsampling)}


def test_the_fastest_form_of_every_place_is_found(
    clock: PretendClock, contract: GraphContract
) -> None:
    costs = [
        costs_of(transposed=5, interleaved=4, enlarged=6),
        costs_of(transposed=5, interleaved=4, enlarged=6),
        costs_of(transposed=9, interleaved=8, enlarged=7, depth_to_space=8),
    ]

    def cost(a: Arrangement) -> float:
        forms = sum(costs[site][a.of_site(site)] for site in range(3))
        return forms + (-1 if a.fused_epilogue else 0) + (2 if a.narrow_input else 0)

    best, result, said = tuned(clock, contract, cost)
    assert best == Arrangement(
        upsampling=("interleaved", "interleaved", "enlarged"), fused_epilogue=True
    )
    assert (result.height, result.width, result.batch, result.threads) == (32, 48, 2, 1)
    kept = [trial for trial in result.trials if trial.kept]
    assert kept[-1].arrangement == best
    assert kept[-1].milliseconds == pytest.approx(1000 * cost(best))
    assert all(t.milliseconds == pytest.approx(1000 * cost(t.arrangement)) for t in result.trials)
    assert len({trial.arrangement for trial in result.trials}) == len(result.trials)
    assert said[0].startswith("tuning, ")


def test_a_difference_within_chance_changes_nothing(
    clock: PretendClock, contract: GraphContract
) -> None:
    best, result, _ = tuned(clock, contract, lambda a: 1.0 if a == Arrangement() else 0.995)
    assert best == Arrangement()
    assert [trial.kept for trial in result.trials] == [True] + [False] * (len(result.trials) - 1)


def test_a_faster_form_that_differs_from_the_graph_is_not_kept(
    clock: PretendClock, contract: GraphContract
) -> None:
    costs = costs_of(transposed=3, interleaved=2, enlarged=1)
    best, result, _ = tuned(
        clock,
        contract,
        lambda form: sum(costs[form.of_site(site)] for site in range(3)),
        lambda form: "enlarged" in form.upsampling,
    )
    assert best == Arrangement(upsampling=("interleaved",))
    rejected = [trial for trial in result.trials if trial.rejected]
    assert rejected
    for trial in rejected:
        assert trial.rejected == "it differs"
        assert "enlarged" in trial.arrangement.upsampling
        assert not trial.kept


def test_a_tuned_engine_records_what_was_tried(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    monkeypatch.setattr(tuning, "_PAUSE", 0.0)
    options = BuildOptions(tune=TuneOptions(size=(16, 16), threads=1))
    build_engine(graph, tmp_path / "e", options)
    manifest = read_manifest(tmp_path / "e")
    assert manifest.tuning is not None
    assert [t for t in manifest.tuning.trials if t.kept][-1].arrangement == manifest.arrangement
    _, session = open_engine(tmp_path / "e")
    session.close()


def test_int8_is_tuned_as_quantised_on_one_photo(
    graph: Path, clock: PretendClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos: Any = SimpleNamespace(calibrate=("first", "second"))
    quantised: list[Sequence[str]] = []

    def in_eight_bits(content: bytes, seen: Sequence[str], _backend: Any) -> Any:
        quantised.append(seen)
        return SimpleNamespace(SerializeToString=lambda: b"8" + content)

    def quantise(content: bytes, _contract: Any, seen: Any, *_rest: Any) -> Any:
        assert seen is photos
        return onnx.load_from_string(content), None

    @dataclass
    class Eights(PretendBackend):
        """Is fast at enlarging in eight bits, and must not be asked for anything else."""

        traits: Any = TRAITS

        def why_not_run(self) -> None:
            return None

        def open(self, files: EngineFiles, precision: Any, _options: Any) -> Any:
            content = files.read("graph")
            assert (precision, content[:1]) == ("int8", b"8")
            enlarges = content.count(b"Resize")

            def run(_inputs: Any) -> None:
                clock.now += 10 - enlarges

            return SimpleNamespace(run=run, close=lambda: None)

    monkeypatch.setattr(prepared_graph, "read_calibration", lambda *_: photos)
    monkeypatch.setattr(prepared_graph, "in_eight_bits", in_eight_bits)
    monkeypatch.setattr(prepared_graph, "quantise", quantise)
    backend: Any = Eights(clock, None)
    options = TuneOptions(size=(16, 16))
    calibration = CalibrationFiles(photos=graph)
    found = prepared_graph.prepare(
        backend, read_graph(graph), "int8", options, calibration, lambda _step: None
    )
    assert found.tuning is not None
    assert found.arrangement is not None
    assert found.arrangement.of_site(0) == "enlarged"
    assert set(map(tuple, quantised)) == {("first",)}
    # The best so far is not quantised again for every comparison.
    assert len(quantised) < 1.5 * len(found.tuning.trials)


def test_the_next_best_form_is_taken_where_the_best_loses_too_much_in_int8(
    graph: Path, clock: PretendClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks_transposed(content: bytes) -> bool:
        nodes = onnx.load_from_string(content).graph.node
        return all(node.op_type != "ConvTranspose" for node in nodes)

    def quantise(content: bytes, *_rest: Any) -> Any:
        if lacks_transposed(content):
            raise ParityError("30 dB, needed 38")
        return onnx.load_from_string(content), None

    def fail(*_anything: Any) -> Any:
        raise ParityError("5 dB, needed 38")

    @dataclass
    class Cheaper(PretendBackend):
        """Is faster the more it enlarges."""

        name: str = "openvino"
        traits: Any = TRAITS

        def why_not_run(self) -> None:
            return None

        def open(self, files: EngineFiles, _precision: Any, _options: Any) -> Any:
            enlarges = files.read("graph").count(b"Resize")

            def run(_inputs: Any) -> None:
                clock.now += 10 - enlarges

            return SimpleNamespace(run=run, close=lambda: None)

    photos: Any = SimpleNamespace(calibrate=("first",))
    monkeypatch.setattr(prepared_graph, "read_calibration", lambda *_: photos)
    monkeypatch.setattr(
        prepared_graph, "in_eight_bits", lambda content, *_: onnx.load_from_string(content)
    )
    monkeypatch.setattr(prepared_graph, "quantise", quantise)
    backend: Any = Cheaper(clock, None)
    arguments = (TuneOptions(size=(16, 16)), CalibrationFiles(photos=graph), lambda _step: None)
    found = prepared_graph.prepare(backend, read_graph(graph), "int8", *arguments)
    assert found.tuning is not None
    assert found.arrangement == found.tuning.best
    assert not lacks_transposed(found.model.SerializeToString())
    assert any(trial.rejected == "30 dB, needed 38" for trial in found.tuning.trials)

    monkeypatch.setattr(prepared_graph, "quantise", fail)
    with pytest.raises(ParityError, match="5 dB"):
        prepared_graph.prepare(backend, read_graph(graph), "int8", *arguments)


def test_what_cannot_run_here_is_not_tuned(graph: Path) -> None:
    backend: Any = SimpleNamespace(
        traits=SimpleNamespace(typed=False), why_not_run=lambda: "there is no GPU"
    )
    with pytest.raises(
        UsageError, match=r"--tune measures .* no engine runs here: there is no GPU"
    ):
        prepared_graph.prepare(
            backend, read_graph(graph), "fp32", TuneOptions(), None, lambda _step: None
        )


def test_tuning_options_need_tune(graph: Path, tmp_path: Path) -> None:
    arguments = ["build-engine", str(graph), "-o", str(tmp_path / "e"), "--tune-size", "64"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert "go with --tune" in str(result.exception)
