import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from pconv_deploy.errors import EngineError, InputError, OutputError, UsageError
from pconv_deploy.evaluation import worker
from pconv_deploy.evaluation.journal import Journal, Score
from pconv_deploy.evaluation.methods import Method, open_method
from pconv_deploy.evaluation.report import markdown, write_reports
from pconv_deploy.evaluation.run import Evaluation, evaluate
from pconv_deploy.evaluation.summary import Results, summarise
from pconv_deploy.evaluation.worker import EvaluationRequest
from pconv_deploy.images.hole_rule import MaskRule
from tests.evaluation.conftest import MakeRequest


def without_times(evaluation: Evaluation) -> list[Any]:
    scores = (msgspec.structs.replace(score, seconds=0) for score in evaluation.scores)
    return sorted((score.pair, score.method, score) for score in scores)


def test_scores_of_all_methods_on_all_pairs(request_for: MakeRequest) -> None:
    seen = []
    evaluation = evaluate(request_for(), lambda done, of, _: seen.append((done, of)))
    assert seen == [(i, 4) for i in range(1, 5)]
    assert len(evaluation.scores) == 2 * 4
    assert evaluation.failures == ()
    found = {(score.pair, score.method) for score in evaluation.scores}
    assert found == {(pair, method) for pair in range(4) for method in ("mean", "telea")}
    assert len({score.l1 for score in evaluation.scores}) == 8


def test_stopped_and_resumed_equals_uninterrupted(request_for: MakeRequest, tmp_path: Path) -> None:
    whole = evaluate(request_for(output=tmp_path / "whole"))

    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(request_for(), stop)
    journal = tmp_path / "out" / "scores.jsonl"
    assert len(journal.read_text().splitlines()) == 4
    # Killed while it wrote: half a line is left, and a hidden file.
    with journal.open("ab") as stream:
        stream.write(b'{"pair":2,"method":"te')
    (tmp_path / "out" / ".1234.partial.png").write_bytes(b"")
    resumed = evaluate(request_for(resume=True))
    assert resumed.kept == 4
    assert without_times(resumed) == without_times(whole)
    again = evaluate(request_for(resume=True))
    assert again.kept == 8
    assert again.scores == resumed.scores


def test_two_processes_give_the_same(request_for: MakeRequest, tmp_path: Path) -> None:
    one = evaluate(request_for(output=tmp_path / "one"))
    two = evaluate(request_for(workers=2))
    assert without_times(two) == without_times(one)


def test_a_method_may_join(request_for: MakeRequest) -> None:
    evaluate(request_for("mean"))
    joined = evaluate(request_for("navier-stokes", "mean", resume=True))
    assert joined.kept == 4
    assert len(joined.scores) == 8
    assert summarise(joined).methods == ("navier-stokes", "mean")


def test_an_existing_evaluation_stays(request_for: MakeRequest, tmp_path: Path) -> None:
    evaluate(request_for())
    with pytest.raises(UsageError, match="--resume to go on with it, or --overwrite"):
        evaluate(request_for())
    assert evaluate(request_for("mean", overwrite=True)).kept == 0
    (tmp_path / "out" / "thesis.txt").write_text("")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UsageError, match=r"holds thesis\.txt, which is no part of an eval"):
            evaluate(request_for(**options))


def changed(request: EvaluationRequest, **settings: Any) -> EvaluationRequest:
    protocol = request.protocol
    return EvaluationRequest(
        methods=request.methods,
        protocol=type(protocol)(**vars(protocol) | settings),
        output=request.output,
        resume=True,
    )


def test_other_settings_are_named(
    request_for: MakeRequest, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "net.safetensors"
    copied.write_bytes(checkpoint.read_bytes())
    request = request_for("mean", str(copied))
    evaluate(request)
    for settings, message in (
        ({"seed": 1}, "--seed was 0, is 1"),
        ({"size": (24, 32)}, "--size was not given, is 24x32"),
        ({"max_pixels": 4 * 10**6}, "--max-megapixels was 1, is 4"),
        ({"per_class": 1}, "--per-class was not given, is 1"),
        ({"mask_rule": MaskRule(threshold=9)}, "--mask-threshold was not given, is 9"),
        ({"masks": None}, "--masks was .*masks, is not given"),
    ):
        with pytest.raises(UsageError, match=f"begun with other settings: {message}"):
            evaluate(changed(request, **settings))
    with pytest.raises(UsageError, match=r"method net\.safetensors was evaluated and is not given"):
        evaluate(request_for("mean", resume=True))
    with pytest.raises(UsageError, match=r"method net\.safetensors \(.*\) has changed"):
        evaluate(request_for("mean", "net.safetensors=telea", resume=True))
    with pytest.raises(UsageError, match=r"method mean \(mean\) has changed"):
        evaluate(request_for("mean=telea", str(copied), resume=True))
    Image.open(pictures / "0.png").transpose(Image.Transpose.ROTATE_180).save(pictures / "0.png")
    with pytest.raises(UsageError, match="pictures or hole masks were added, removed or changed"):
        evaluate(changed(request))


def test_damaged_journals_are_refused(request_for: MakeRequest, tmp_path: Path) -> None:
    evaluate(request_for())
    journal = tmp_path / "out" / "scores.jsonl"
    journal.write_bytes(b"nothing\n" + journal.read_bytes())
    with pytest.raises(InputError, match=r"scores\.jsonl is damaged.*--overwrite"):
        evaluate(request_for(resume=True))


def test_only_one_writes_at_a_time(request_for: MakeRequest, tmp_path: Path) -> None:
    evaluate(request_for())
    with (
        Journal(tmp_path / "out"),
        pytest.raises(UsageError, match="another evaluation is writing to"),
    ):
        evaluate(request_for(resume=True))
    stored = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.json*")}
    with (
        Journal(tmp_path / "out"),
        pytest.raises(UsageError, match="another evaluation is writing to"),
    ):
        evaluate(request_for("mean", overwrite=True))
    assert {path: path.read_bytes() for path in stored} == stored


def test_a_folder_that_goes_meanwhile_ends_it(request_for: MakeRequest, tmp_path: Path) -> None:
    def remove(*_: object) -> None:
        shutil.rmtree(tmp_path / "out")

    with pytest.raises(OutputError, match="was removed or replaced meanwhile"):
        evaluate(request_for(), remove)


def test_one_that_was_killed_before_it_had_settings_begins_again(
    request_for: MakeRequest, tmp_path: Path
) -> None:
    (tmp_path / "out" / "examples").mkdir(parents=True)
    (tmp_path / "out" / "scores.jsonl").touch()
    litter = [tmp_path / "out", tmp_path / "out" / "examples"]
    litter = [folder / f".{'0' * 32}.partial.png" for folder in litter]
    for path in litter:
        path.touch()
    assert evaluate(request_for(resume=True)).kept == 0
    assert not any(path.exists() for path in litter)


def test_it_goes_on_from_another_folder(
    request_for: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("", "elsewhere"):
        (tmp_path / place).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / place)
        request = request_for(resume=True)
        relative = {
            name: Path(os.path.relpath(path))
            for name in ("images", "masks")
            if (path := getattr(request.protocol, name))
        }
        evaluation = evaluate(changed(request, **relative))
        assert evaluation.kept == (8 if place else 0)


def test_an_unreadable_picture_is_named_and_left_out(
    request_for: MakeRequest, pictures: Path
) -> None:
    names = {Path(p.image).name for p in evaluate(request_for()).pairing.pairs}
    (pictures / min(names)).write_bytes(b"nothing")
    evaluation = evaluate(request_for(overwrite=True))
    assert evaluation.failures
    assert all(failure.method is None for failure in evaluation.failures)
    assert all(min(names) in failure.message for failure in evaluation.failures)
    results = summarise(evaluation)
    assert results.compared == 4 - len(evaluation.failures)
    for picture in pictures.iterdir():
        picture.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"none of the 4 pairs could be evaluated; the first: .*no"
    ):
        evaluate(request_for(overwrite=True))


def failing(monkeypatch: pytest.MonkeyPatch, how_often: int) -> None:
    """Let telea fail so many times, then work."""
    calls = []

    def open_failing(spec: Any, threads: int | None) -> Method:
        method = open_method(spec, threads)
        if spec.label != "telea":
            return method

        def fill(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) <= how_often:
                raise RuntimeError("no luck")
            return method.fill(*arguments)

        return Method(fill, method.close)

    monkeypatch.setattr(worker, "open_method", open_failing)


def test_a_failing_method_is_named_and_its_pair_left_out(
    request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1)
    evaluation = evaluate(request_for())
    assert [(f.method, f.message) for f in evaluation.failures] == [
        ("telea", "RuntimeError: no luck")
    ]
    results = summarise(evaluation)
    assert (results.compared, results.pairs) == (3, 4)
    pictures = {
        cell.pictures for cell in results.cells if cell.bucket is None and cell.border is None
    }
    assert pictures == {3}
    resumed = evaluate(request_for(resume=True))  # tried again
    assert resumed.failures == ()
    assert summarise(resumed).compared == 4


def test_a_method_that_always_fails_spoils_nothing(
    request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 99)
    results = summarise(evaluate(request_for()))
    assert results.without_results == ("telea",)
    assert results.compared == 4
    assert "Without any result: telea" in markdown(results)
    with pytest.raises(EngineError, match=r"none of the 4 pairs .* RuntimeError: no luck"):
        evaluate(request_for("telea", overwrite=True))


def test_averages_are_means_over_pictures(request_for: MakeRequest) -> None:
    evaluation = evaluate(request_for())
    results = summarise(evaluation)
    numbers = {p.number for p in evaluation.pairing.pairs if p.hole_class.bucket == 2}
    scores = [s for s in evaluation.scores if s.method == "telea" and s.pair in numbers]
    cell = results.cell("telea", (0.2, 0.3), False)
    assert cell is not None
    assert cell.pictures == len(scores) == 2
    for name in ("l1", "l1_hole", "psnr", "ssim"):
        expected = sum(getattr(score, name) for score in scores) / 2
        assert getattr(cell, name) == pytest.approx(expected)
    assert results.cell("telea", (0.2, 0.3), True) is None


def test_infinite_psnr_is_counted_apart(request_for: MakeRequest) -> None:
    evaluation = evaluate(request_for("telea"))
    first, *rest = evaluation.scores
    perfect = Score(pair=first.pair, method="telea", l1=0, l1_hole=0, psnr=None, ssim=1, seconds=1)
    results = summarise(
        Evaluation(evaluation.settings, evaluation.pairing, (perfect, *rest), (), 0)
    )
    cell = results.cell("telea", None, None)
    assert cell is not None
    assert (cell.pictures, cell.equal) == (4, 1)
    assert cell.psnr == pytest.approx(sum(score.psnr or 0 for score in rest) / 3)


def test_reports(request_for: MakeRequest, tmp_path: Path) -> None:
    request = request_for("mean", "a|b=telea")
    evaluation = evaluate(request)
    results = summarise(evaluation)
    write_reports(request, evaluation, results)
    stored = (tmp_path / "out" / "results.json").read_bytes()
    assert msgspec.json.decode(stored, type=Results) == results
    assert json.loads(stored)["cells"][0]["bucket"] == [0.1, 0.2]
    table = (tmp_path / "out" / "table.md").read_text()
    head = "| metric | method | 10-20% N | 10-20% B | 20-30% N | all N | all B | all |"
    assert head in table
    cell = results.cell("a|b", (0.1, 0.2), True)
    assert cell is not None
    assert f"| L1 (%) | a\\|b | {results.cell('a|b', (0.1, 0.2), False).l1:.2f} |" in table  # type: ignore[union-attr]
    assert "| pictures | | 1 | 1 | 2 | 3 | 1 | 4 |" in table
    mean, telea = (results.cell(name, None, None) for name in ("mean", "a|b"))
    assert mean is not None
    assert telea is not None
    assert "Differences to mean, of the averages over all pairs:" in table
    assert f"| a\\|b | {telea.l1 - mean.l1:+z.4f} |" in table
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width == 4 * 248 + 8  # input, two methods, original
        assert grid.height == 2 * (180 + 8) + 2 * 28
