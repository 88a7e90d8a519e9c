"""Score every method on every pair in worker processes; resumable."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pconv_deploy.errors import EngineError, InputError
from pconv_deploy.evaluation.journal import (
    Journal,
    Score,
    Settings,
    prepare_folder,
    readable,
)
from pconv_deploy.evaluation.methods import ORIGINAL, open_method
from pconv_deploy.evaluation.pairs import Pair, Pairing, plan_pairs
from pconv_deploy.evaluation.weights import WeightFiles, located
from pconv_deploy.evaluation.worker import (
    EvaluationRequest,
    EvaluationTask,
    EvaluationWorker,
    Failure,
    TaskResult,
    begin_process,
    do_in_process,
    load_perceptual,
)
from pconv_deploy.files import reading
from pconv_deploy.masks.irregular import AREA_BUCKETS
from pconv_deploy.processes import spawning, worker_pool

# Read by the linear algebra libraries of a new process when they start.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Evaluation:
    """All results, in the order of the pairs."""

    settings: Settings
    pairing: Pairing
    scores: tuple[Score, ...]
    failures: tuple[Failure, ...]
    kept: int


def evaluate(
    request: EvaluationRequest, progress: Callable[[int, int, TaskResult], None] = lambda *_: None
) -> Evaluation:
    """Score all methods on all pairs; keep the scores in the journal.

    Args:
        request: what is wanted.
        progress: is told pairs done, their number, and what came of the last one.

    Raises:
        PConvError: nothing can be evaluated as it is asked for. A picture or a method that
            fails on a picture is a `Failure` instead, but not if nothing else is left.
    """
    weights = located(request.weights)
    for spec in request.methods:  # complain before work begins
        open_method(spec, request.threads).close()
    load_perceptual(weights)
    pairing = plan_pairs(request.protocol, aside=(request.output,))
    settings = _settings(request, pairing, weights)
    prepare_folder(request.output, settings, resume=request.resume, overwrite=request.overwrite)
    with Journal(request.output) as journal:
        journal.begin(settings, resume=request.resume)
        scores = journal.read()
        kept = len(scores)
        tasks = _open_tasks(pairing, settings, weights, scores)
        failures: list[Failure] = []
        examples = frozenset(pair.number for pair in example_pairs(pairing))
        for number, outcome in enumerate(_outcomes(tasks, (request, weights, examples)), 1):
            journal.add(outcome.scores)
            scores += outcome.scores
            failures += outcome.failures
            progress(number, len(tasks), outcome)
    if not any(score.method != ORIGINAL for score in scores):
        first = min(failures, key=lambda failure: failure.pair)
        kind = InputError if first.method is None else EngineError
        raise kind(
            f"none of the {len(pairing.pairs)} pairs could be evaluated; the first: {first.message}"
        )
    scores.sort(key=lambda score: score.pair)
    failures.sort(key=lambda failure: failure.pair)
    return Evaluation(settings, pairing, tuple(scores), tuple(failures), kept)


def _settings(request: EvaluationRequest, pairing: Pairing, weights: WeightFiles) -> Settings:
    protocol = request.protocol
    files = {name for pair in pairing.pairs for name in (pair.image, pair.hole_mask) if name}
    facts = [_stored(name) for name in sorted(files)]
    everything = repr((pairing.pairs, facts)).encode(errors="surrogateescape")
    methods = tuple(
        msgspec.structs.replace(spec, source=readable(spec.source)) for spec in request.methods
    )
    return Settings(
        methods=methods,
        images=readable(protocol.images.resolve()),
        masks=readable(protocol.masks.resolve()) if protocol.masks else None,
        mask_convention=protocol.mask_rule.convention,
        mask_threshold=protocol.mask_rule.threshold,
        size=protocol.size,
        per_class=protocol.per_class,
        seed=protocol.seed,
        max_pixels=protocol.max_pixels,
        pairs=hashlib.sha256(everything).hexdigest(),
        weights=weights.hashes(),
    )


def _stored(name: str) -> tuple[str, int, int]:
    with reading(Path(name)):
        stat = os.stat(name)
    return name, stat.st_size, stat.st_mtime_ns


def _open_tasks(
    pairing: Pairing, settings: Settings, weights: WeightFiles, scores: Sequence[Score]
) -> list[EvaluationTask]:
    wanted = [spec.label for spec in settings.methods]
    wanted += [ORIGINAL] if weights.inception else []
    done = {(score.pair, score.method) for score in scores}
    tasks = [
        EvaluationTask(pair, tuple(label for label in wanted if (pair.number, label) not in done))
        for pair in pairing.pairs
    ]
    return [task for task in tasks if task.labels]


def example_pairs(pairing: Pairing) -> list[Pair]:
    """One pair per area class, with different images if possible; their fills are kept.

    Without border if there is one.
    """
    chosen: list[Pair] = []
    for bucket in range(len(AREA_BUCKETS)):
        pairs = [pair for pair in pairing.pairs if pair.hole_class.bucket == bucket]
        pairs = [pair for pair in pairs if not pair.hole_class.border] or pairs
        if pairs:
            chosen.append(pairs[bucket % len(pairs)])
    return chosen


def _outcomes(
    tasks: Sequence[EvaluationTask],
    arguments: tuple[EvaluationRequest, WeightFiles, frozenset[int]],
) -> Iterator[TaskResult]:
    workers = min(arguments[0].workers, len(tasks))
    if workers <= 1:
        with EvaluationWorker(*arguments, threads=arguments[0].threads) as worker:
            yield from map(worker.do, tasks)
        return
    try:
        with worker_pool(workers, begin_process, arguments) as pool:
            with _one_thread_each(), spawning():
                futures = [pool.submit(do_in_process, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()
    except BrokenProcessPool as error:
        raise EngineError(
            "a worker process ended, perhaps for want of memory. What is done is kept: go on "
            "with --resume and fewer --workers"
        ) from error


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Set what processes that start in the block read when they start."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
