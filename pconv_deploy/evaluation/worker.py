"""Worker process: fill and score one pair after another with every method."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import msgspec
from PIL import Image

from pconv_deploy.errors import OutputError, PConvError, needs
from pconv_deploy.evaluation.journal import EXAMPLES, Score
from pconv_deploy.evaluation.methods import ORIGINAL, MethodSpec, fill_hole, open_method
from pconv_deploy.evaluation.metrics import compare_pictures
from pconv_deploy.evaluation.pairs import Pair, Protocol, load_pair
from pconv_deploy.evaluation.weights import WeightFiles
from pconv_deploy.images.arrays import Bytes, Hole
from pconv_deploy.images.writing import save_image

if TYPE_CHECKING:
    from pconv_deploy.evaluation.perceptual import Perceptual


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """Methods, pairs and options of an evaluation.

    workers  processes; with several each takes one thread
    threads  of one fill, with one worker; None leaves each method its own choice
    """

    methods: tuple[MethodSpec, ...]
    protocol: Protocol
    output: Path
    weights: WeightFiles = field(default_factory=WeightFiles)
    workers: int = 1
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A pair that could not be scored by `method`, or by any if that is None."""

    pair: int
    image: str
    hole_mask: str | None
    method: str | None
    message: str


@dataclass(frozen=True)
class TaskResult:
    """Scores and failures of one pair."""

    scores: tuple[Score, ...] = ()
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class EvaluationTask:
    """A pair and the methods that have not filled it yet."""

    pair: Pair
    labels: tuple[str, ...]


def example_path(output: Path, pair: Pair, label: str) -> Path:
    """Where the picture of an example pair is kept."""
    return output / EXAMPLES / f"{pair.number:05d}-{quote(label, safe='')}.png"


class EvaluationWorker:
    """Methods and networks, loaded once for all pairs."""

    def __init__(
        self,
        request: EvaluationRequest,
        weights: WeightFiles,
        examples: frozenset[int],
        *,
        threads: int | None,
    ) -> None:
        self._request, self._examples = request, examples
        self._methods = {spec.label: open_method(spec, threads) for spec in request.methods}
        self._perceptual = load_perceptual(weights, threads)

    def do(self, task: EvaluationTask) -> TaskResult:
        try:
            image, hole = load_pair(task.pair, self._request.protocol)
        except PConvError as error:
            return TaskResult(failures=(_failure(task.pair, None, error),))
        scores, failures = [], []
        for label in task.labels:
            started = time.perf_counter()
            try:
                method = self._methods.get(label)
                filled = fill_hole(method, image, hole) if method else image  # or the original
                seconds = time.perf_counter() - started
                if task.pair.number in self._examples and method:
                    path = example_path(self._request.output, task.pair, label)
                    save_image(path, Image.fromarray(filled))
                scores.append(self._score(task.pair, label, (filled, image, hole), seconds))
            except OutputError:
                raise  # nothing more can be written
            except PConvError as error:
                failures.append(_failure(task.pair, label, error))
        return TaskResult(tuple(scores), tuple(failures))

    def _score(
        self, pair: Pair, label: str, pictures: tuple[Bytes, Bytes, Hole], seconds: float
    ) -> Score:
        filled, image, hole = pictures
        metrics = compare_pictures(filled, image, hole)._asdict()
        if self._perceptual is not None:
            if label != ORIGINAL:
                metrics["lpips"] = self._perceptual.lpips(filled, image)
            metrics["features"] = self._perceptual.features(filled)
        return Score(pair=pair.number, method=label, seconds=round(seconds, 6), **metrics)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for method in self._methods.values():
            method.close()


def load_perceptual(weights: WeightFiles, threads: int | None = None) -> "Perceptual | None":
    """The networks that some metrics need; None without files of weights.

    Raises:
        InputError: a file that is not what it is given as.
        MissingRuntimeError: PyTorch is not installed.
    """
    if not (weights.vgg16 or weights.inception):
        return None
    with needs("pconv-deploy[checkpoint]", what="LPIPS, FID or the Inception score"):
        import torch

        from pconv_deploy.evaluation.perceptual import Perceptual

    if threads is not None:
        torch.set_num_threads(threads)
    return Perceptual(weights)


def _failure(pair: Pair, label: str | None, error: PConvError) -> Failure:
    return Failure(
        pair=pair.number,
        image=pair.image,
        hole_mask=pair.hole_mask,
        method=label,
        message=str(error),
    )


_worker: EvaluationWorker | None = None  # of this process


def begin_process(
    request: EvaluationRequest, weights: WeightFiles, examples: frozenset[int]
) -> None:
    """Load everything, in a process that was just started."""
    global _worker
    _worker = EvaluationWorker(request, weights, examples, threads=1)


def do_in_process(task: EvaluationTask) -> TaskResult:
    """Do one pair in a process that `begin_process` made ready."""
    assert _worker is not None
    return _worker.do(task)
