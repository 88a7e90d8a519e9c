import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pconv_deploy.parity import ParityInput, ParityReport
from pconv_deploy.verification.candidates import Filled
from pconv_deploy.verification.measures import judge, measure
from pconv_deploy.verification.picture import worst_picture
from pconv_deploy.verification.results import Compared

STRICT = ParityReport(reference="A", candidate="B", tolerance=1e-5, level_tolerance=1, cases=())
BRIGHTEST, DARKEST, NOT_FINITE = (252, 255, 164), (0, 0, 4), (0, 200, 255)
Floats = NDArray[np.float64]


def compared(a: Filled, b: Filled, size: tuple[int, int]) -> Compared:
    hole = np.zeros(size, np.uint8)
    hole[:4, :4] = 255
    case = ParityInput("a hole", np.full((*size, 3), 100, np.uint8), hole)
    judged = judge(case, a, b, STRICT.tolerance, None)
    failures = tuple(STRICT.complaints(judged))
    result = measure(case, "1-10%", (a, b), allowed=1e-5, failures=failures)
    alone = msgspec.structs.replace(STRICT, cases=(judged,))
    return Compared(case, a, b, result, judged, alone.worst_error)


def grey(size: tuple[int, int] = (32, 64)) -> Floats:
    return np.full((*size, 3), 0.5)


def heat_map(picture: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """The last of the four panels, without margins and titles."""
    pixels = np.asarray(picture)
    found: NDArray[np.uint8] = pixels[22 : 22 + height, picture.width - 12 - width : -12]
    return found


def test_one_differing_pixel_is_the_brightest_of_the_map() -> None:
    other = grey()
    other[10, 20] += 0.1
    picture = worst_picture(
        compared(Filled(grey(), None), Filled(other, None), (32, 64)), ("a", "b")
    )
    assert picture.mode == "RGB"
    shown = heat_map(picture, 256, 128)  # four times as large
    brightest = (shown == BRIGHTEST).all(axis=2)
    assert brightest[40:44, 80:84].all()
    assert brightest.sum() == 16
    assert (shown[~brightest] == DARKEST).all()


def test_a_large_picture_keeps_its_smallest_difference() -> None:
    size = (600, 1100)
    other = grey(size)
    other[301, 550] += 0.1
    picture = worst_picture(compared(Filled(grey(size), None), Filled(other, None), size), ("", ""))
    assert picture.width < 4 * 512
    shown = heat_map(picture, 367, 200)  # a third, rounded up
    assert np.argwhere((shown == BRIGHTEST).all(axis=2)).tolist() == [[100, 183]]


def test_nan_has_a_colour_of_its_own() -> None:
    other = grey()
    other[0, 0] = np.nan
    other[1, 1] += 0.1
    picture = worst_picture(
        compared(Filled(grey(), None), Filled(other, None), (32, 64)), ("a", "b")
    )
    shown = heat_map(picture, 256, 128)
    assert (shown[:4, :4] == NOT_FINITE).all()
    assert (shown[4:8, 4:8] == BRIGHTEST).all()


@pytest.mark.parametrize("level", [127, 90])
def test_where_only_the_composite_fails_it_is_shown(level: int) -> None:
    composite = np.full((32, 64, 3), 100, np.uint8)
    composite[:4, :4] = level
    worst = compared(Filled(grey(), None), Filled(grey(), composite), (32, 64))
    shown = heat_map(worst_picture(worst, ("a", "b")), 256, 128)
    assert bool(worst.result.failures) is (level == 90)
    assert bool((shown == BRIGHTEST).all(axis=2)[:16, :16].all()) is (level == 90)


def test_long_names_stay_in_their_panels() -> None:
    side = Filled(grey(), None)
    names = ("folder/" * 60 + "model.onnx", "b")
    titled = worst_picture(compared(side, side, (32, 64)), names)
    plain = worst_picture(compared(side, side, (32, 64)), ("", "b"))
    titles, without = (np.asarray(p)[:20] for p in (titled, plain))
    panel = slice(12 + 268, 12 + 268 + 256)
    assert (titles[:, panel] != without[:, panel]).any()
    kept = np.ones(titled.width, bool)
    kept[panel] = False
    np.testing.assert_array_equal(titles[:, kept], without[:, kept])
