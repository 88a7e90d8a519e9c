"""Average scores by method and hole class, as in the paper's table."""

import datetime
import math
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal, NamedTuple

import msgspec

from pconv_deploy.errors import EngineError
from pconv_deploy.evaluation.journal import Score, Settings, readable
from pconv_deploy.evaluation.methods import ORIGINAL
from pconv_deploy.evaluation.pairs import Pair
from pconv_deploy.evaluation.run import Evaluation
from pconv_deploy.evaluation.worker import Failure
from pconv_deploy.masks.irregular import AREA_BUCKETS


class Metric(NamedTuple):
    """How a metric of a `Cell` is shown."""

    name: str
    title: str
    digits: int


METRICS = (
    Metric("l1", "L1 (%)", 2),
    Metric("psnr", "PSNR (dB)", 2),
    Metric("ssim", "SSIM", 3),
    Metric("lpips", "LPIPS", 4),
    Metric("fid", "FID", 1),
    Metric("inception_score", "Inception score", 2),
)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one class of holes, or on several; values are means over the pictures.

    bucket           share of the image that is hole; None: all
    border           None: with and without
    psnr             over the pictures in which anything differs
    equal            pictures in which nothing differs: their PSNR is infinite and left out
    fid, inception_score  of all the pictures together
    median_seconds   of one fill, from array to array
    """

    method: str
    bucket: tuple[float, float] | None
    border: bool | None
    pictures: int
    l1: float
    l1_hole: float | None
    psnr: float | None
    equal: int
    ssim: float
    lpips: float | None = None
    fid: float | None = None
    inception_score: float | None = None
    median_seconds: float

    def value(self, metric: Metric) -> float | None:
        found: float | None = getattr(self, metric.name)
        return found


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of results.json.

    pairs               planned
    compared            pairs that every method filled: all averages are over these
    without_results     methods that filled none, and are in no average
    unclassed_masks     mask files outside of all classes, not used
    unread              pictures of kinds that are not read, in no pair, and why
    inception_original  Inception score of the unharmed pictures, where it was asked for
    """

    format: Literal[1] = 1
    pconv_deploy: str
    created: str
    settings: Settings
    pairs: int
    compared: int
    without_results: tuple[str, ...]
    unclassed_masks: int
    unread: tuple[str, ...] = ()
    failures: tuple[Failure, ...]
    cells: tuple[Cell, ...]
    inception_original: float | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        labels = (spec.label for spec in self.settings.methods)
        return tuple(label for label in labels if label not in self.without_results)

    def cell(
        self, method: str, bucket: tuple[float, float] | None, border: bool | None
    ) -> Cell | None:
        """The cell of that place in the table; None where no picture was."""
        place = (method, bucket, border)
        return next((c for c in self.cells if (c.method, c.bucket, c.border) == place), None)


def summarise(evaluation: Evaluation) -> Results:
    """Average over the pairs that every method filled, so that all see the same ones.

    Raises:
        EngineError: there is none.
    """
    labels = [spec.label for spec in evaluation.settings.methods]
    by_method = {
        label: {s.pair: s for s in evaluation.scores if s.method == label}
        for label in (*labels, ORIGINAL)
    }
    judged = [label for label in labels if by_method[label]]
    common = set.intersection(*(set(by_method[label]) for label in judged))
    if not common:
        raise EngineError(
            f"no pair was filled by all of {', '.join(judged)}, so nothing can be compared; "
            "evaluate them apart"
        )
    pairs = [pair for pair in evaluation.pairing.pairs if pair.number in common]
    originals = by_method[ORIGINAL]
    cells = []
    for label in judged:
        for bucket in (*range(len(AREA_BUCKETS)), None):
            for border in (False, True, None):
                members = [pair for pair in pairs if _belongs(pair, bucket, border)]
                if members:
                    scores = [by_method[label][pair.number] for pair in members]
                    real = [originals[p.number] for p in members if p.number in originals]
                    area = None if bucket is None else AREA_BUCKETS[bucket]
                    cells.append(_cell(label, (area, border), scores, real))
    return Results(
        pconv_deploy=version("pconv-deploy"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=evaluation.settings,
        pairs=len(evaluation.pairing.pairs),
        compared=len(pairs),
        without_results=tuple(label for label in labels if label not in judged),
        unclassed_masks=evaluation.pairing.unclassed,
        unread=tuple(readable(why) for why in evaluation.pairing.unread),
        failures=tuple(_readable(failure) for failure in evaluation.failures),
        cells=tuple(cells),
        inception_original=_inception([originals[n] for n in sorted(common & originals.keys())]),
    )


def _belongs(pair: Pair, bucket: int | None, border: bool | None) -> bool:
    return bucket in (None, pair.hole_class.bucket) and border in (None, pair.hole_class.border)


def _cell(
    label: str,
    place: tuple[tuple[float, float] | None, bool | None],
    scores: Sequence[Score],
    originals: Sequence[Score],
) -> Cell:
    return Cell(
        method=label,
        bucket=place[0],
        border=place[1],
        pictures=len(scores),
        l1=math.fsum(score.l1 for score in scores) / len(scores),
        l1_hole=_mean([score.l1_hole for score in scores]),
        psnr=_mean([score.psnr for score in scores]),
        equal=sum(score.psnr is None for score in scores),
        ssim=math.fsum(score.ssim for score in scores) / len(scores),
        lpips=_mean([score.lpips for score in scores]),
        fid=_fid(scores, originals),
        inception_score=_inception(scores),
        median_seconds=statistics.median(score.seconds for score in scores),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _fid(scores: Sequence[Score], originals: Sequence[Score]) -> float | None:
    filled, real = _features(scores), _features(originals)
    if not filled or not real:
        return None
    from pconv_deploy.evaluation.perceptual import as_features, frechet_distance

    return frechet_distance(as_features(filled)[0], as_features(real)[0])


def _inception(scores: Sequence[Score]) -> float | None:
    if not (stored := _features(scores)):
        return None
    from pconv_deploy.evaluation.perceptual import as_features, inception_score

    return inception_score(as_features(stored)[1])


def _features(scores: Sequence[Score]) -> list[bytes]:
    return [score.features for score in scores if score.features is not None]


def _readable(failure: Failure) -> Failure:
    mask = failure.hole_mask
    return msgspec.structs.replace(
        failure,
        image=readable(failure.image),
        hole_mask=readable(mask) if mask is not None else None,
        message=readable(failure.message),
    )
