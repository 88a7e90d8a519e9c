"""Which of the equal forms of a graph is fastest here: found by running them, two at a time."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import numpy as np

from pconv_deploy.contract import GraphContract
from pconv_deploy.engines.base import Backend, Built
from pconv_deploy.engines.lowering.forms import Arrangement, Upsampling
from pconv_deploy.engines.sessions import RunOptions, files_just_built
from pconv_deploy.files import scratch_folder
from pconv_deploy.masks.irregular import irregular_hole
from pconv_deploy.parity import Arrays, ParityInput, Precision, graph_inputs
from pconv_deploy.timing import Contender, milliseconds, take_turns

if TYPE_CHECKING:
    import onnx

_ROUNDS = 7
# Below this a difference is taken for chance, and what stood before stays.
_WORTH = 1.01
_UPSAMPLINGS: tuple[Upsampling, ...] = get_args(Upsampling)
_SWITCHES = ("fused_epilogue", "narrow_output", "narrow_input")
_PAUSE = 0.1  # seconds before each turn


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What to be fast at. size: height and width; None takes the graph's own, or 512x512."""

    size: tuple[int, int] | None = None
    batch: int | None = None
    threads: int | None = None


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arrangement that was tried.

    milliseconds  median of a batch
    against       median of the best one so far, taking turns with it; None for the first
    kept          it became the best
    rejected      why it did not, though it was faster: it differs too much from the graph
    """

    arrangement: Arrangement
    milliseconds: float
    against: float | None = None
    kept: bool
    rejected: str | None = None


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was tried, and on what; threads None: the runtime's own choice."""

    height: int
    width: int
    batch: int
    threads: int | None
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Arrangement:
        return next(trial.arrangement for trial in reversed(self.trials) if trial.kept)

    def without_best(self, why: str) -> "Tuning | None":
        """Reject the best form, so that the one before it is the best; None if there is none."""
        last = max(number for number, trial in enumerate(self.trials) if trial.kept)
        if last == 0:
            return None
        trials = list(self.trials)
        trials[last] = msgspec.structs.replace(trials[last], kept=False, rejected=why)
        return msgspec.structs.replace(self, trials=tuple(trials))


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Runs arrangements of one graph.

    model         gives the graph in an arrangement
    sites         decoder convolutions that have a form to choose
    why_rejected  compares an engine in a folder, built from a model, with the exported graph: says
                  why it would not be kept, or None if it would
    """

    model: Callable[[Arrangement], "onnx.ModelProto"]
    sites: int
    backend: Backend
    contract: GraphContract
    precision: Precision
    options: TuneOptions
    progress: Callable[[str], None]
    why_rejected: Callable[["onnx.ModelProto", Path, Built], str | None]

    def tune(self) -> Tuning:
        """Change one choice at a time, from the backend's default, and keep what is faster.

        Only what is faster is compared with the graph, and kept if it computes the same.
        """
        height, width = self.options.size or self.contract.size or (512, 512)
        batch = self.options.batch or self.contract.batch or 1
        multiple = self.contract.size_multiple
        height, width = (multiple * math.ceil(side / multiple) for side in (height, width))
        inputs = _inputs(self.contract, batch, height, width)
        best, trials = self.backend.usual_form(self.precision), list[Trial]()
        number = 0
        while (candidate := self._candidate(number, best)) is not None:
            number += 1
            if candidate == best or any(t.arrangement == candidate for t in trials):
                continue
            self.progress(f"tuning, {number} of {self._choices}: {candidate.describe()}")
            before, after = self._compare(best, candidate, inputs)
            if not trials:
                trials.append(Trial(arrangement=best, milliseconds=before, kept=True))
            faster = before > _WORTH * after
            rejected = self._compared_with_graph(candidate) if faster else None
            trial = Trial(
                arrangement=candidate,
                milliseconds=after,
                against=before,
                kept=faster and not rejected,
                rejected=rejected,
            )
            trials.append(trial)
            best = candidate if trial.kept else best
        return Tuning(
            height=height,
            width=width,
            batch=batch,
            threads=self.options.threads,
            trials=tuple(trials),
        )

    @property
    def _choices(self) -> int:
        return len(_UPSAMPLINGS) * (1 + self.sites) + len(_SWITCHES)

    def _candidate(self, number: int, best: Arrangement) -> Arrangement | None:
        """The choice that is tried next: a form for all, for one from the widest on, a switch."""
        if number >= self._choices:
            return None
        switch = number - len(_UPSAMPLINGS) * (1 + self.sites)
        if switch >= 0:
            name = _SWITCHES[switch]
            return msgspec.structs.replace(best, **{name: not getattr(best, name)})
        one, form = divmod(number, len(_UPSAMPLINGS))
        forms = [best.of_site(site) for site in range(self.sites)]
        if one == 0:
            forms = [_UPSAMPLINGS[form]] * self.sites
        else:
            forms[-one] = _UPSAMPLINGS[form]
        while len(forms) > 1 and forms[-1] == forms[-2]:
            forms.pop()
        return msgspec.structs.replace(best, upsampling=tuple(forms))

    def _compare(
        self, best: Arrangement, candidate: Arrangement, inputs: Arrays
    ) -> tuple[float, float]:
        """Milliseconds of both, taking turns."""
        with self._opened(best) as run_best, self._opened(candidate) as run_candidate:
            both = {
                "best": Contender(lambda: run_best(inputs), _PAUSE),
                "candidate": Contender(lambda: run_candidate(inputs), _PAUSE),
            }
            times = take_turns(both, _ROUNDS, warm_up=1)
        before, after = (round(milliseconds(times[name], 50)[0], 3) for name in both)
        return before, after

    def _compared_with_graph(self, candidate: Arrangement) -> str | None:
        model = self.model(candidate)
        with scratch_folder() as folder:
            return self.why_rejected(model, folder, self._build(model, folder))

    @contextlib.contextmanager
    def _opened(self, arrangement: Arrangement) -> Iterator[Callable[[Arrays], Any]]:
        with scratch_folder() as folder:
            self._build(self.model(arrangement), folder)
            options = RunOptions(threads=self.options.threads)
            session = self.backend.open(files_just_built(folder), self.precision, options)
            with contextlib.closing(session):
                yield session.run

    def _build(self, model: "onnx.ModelProto", folder: Path) -> Built:
        return self.backend.build(model.SerializeToString(), self.contract, self.precision, folder)


def _inputs(contract: GraphContract, batch: int, height: int, width: int) -> Arrays:
    rng = np.random.default_rng(0)
    cases = [
        ParityInput(
            "tuning",
            rng.integers(0, 256, (height, width, 3), np.uint8),
            irregular_hole(rng, height, width, (0.2, 0.3)),
        )
        for _ in range(batch)
    ]
    return graph_inputs(cases, contract)
