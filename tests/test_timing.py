"""Functions timed in turns, on a clock that only they move."""

import time

import pytest

from pconv_deploy.timing import Contender, Ratio, milliseconds, peak_mib, take_turns


class Clock:
    """Stands still, except where a contender runs or waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.advance)

    def advance(self, seconds: float, name: str = "sleep") -> None:
        self.now += seconds
        self.calls.append(name)

    def contender(self, name: str, seconds: float, pause: float = 0.5) -> Contender:
        return Contender(lambda: self.advance(seconds, name), pause)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_contenders_take_turns_and_pauses_do_not_count(clock: Clock) -> None:
    told: list[tuple[int, int]] = []
    contenders = {"a": clock.contender("a", 2.0), "b": clock.contender("b", 1.0)}
    times = take_turns(contenders, 2, warm_up=1, progress=lambda *step: told.append(step))
    assert times == {"a": [2.0, 2.0], "b": [1.0, 1.0]}
    assert clock.calls == ["sleep", "a", "sleep", "b"] * 3
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_limit_ends_timed_rounds_only(clock: Clock) -> None:
    one = {"a": clock.contender("a", 4.0, pause=0)}
    assert len(take_turns(one, 500, warm_up=9, limit=10)["a"]) == 3
    assert len(take_turns(one, 2, warm_up=9, limit=10)["a"]) == 2
    assert len(take_turns(one, 500, warm_up=0, limit=0)["a"]) == 1  # never without a figure


def test_a_gpu_is_waited_for_before_and_after(clock: Clock) -> None:
    late = Contender(
        lambda: clock.advance(1, "launch"),
        pause=0,
        synchronise=lambda: clock.advance(3, "wait"),
    )
    assert late.take_turn() == 4
    assert clock.calls == ["sleep", "wait", "launch", "wait"]


def test_ratios_are_taken_round_by_round() -> None:
    # The machine is half as fast in the second round: no reason for a wider ratio.
    ratio = Ratio.of([4.0, 8.0, 4.0], [2.0, 4.0, 2.0])
    assert (ratio.median, ratio.p10, ratio.p90) == (2, 2, 2)
    assert str(Ratio.of([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])) == "2.00 (1.20-2.80)"
    assert milliseconds([0.1, 0.2, 0.3], 50, 100) == pytest.approx([200, 300])


def test_peak_memory_is_of_this_process() -> None:
    assert (peak_mib() or 0) > 10
