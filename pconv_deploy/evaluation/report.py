"""Write results as Markdown, JSON and an image grid."""

import msgspec
from PIL import Image, ImageDraw, ImageFont

from pconv_deploy.errors import PConvError
from pconv_deploy.evaluation.journal import GRID, RESULTS, TABLE
from pconv_deploy.evaluation.pairs import CLASSES, Pair, load_pair
from pconv_deploy.evaluation.run import Evaluation, example_pairs
from pconv_deploy.evaluation.summary import METRICS, Metric, Results
from pconv_deploy.evaluation.worker import EvaluationRequest, example_path
from pconv_deploy.files import atomic_file
from pconv_deploy.images.contact_sheet import write_contact_sheet
from pconv_deploy.masks.irregular import AREA_BUCKETS

_HOLE_COLOUR = (255, 255, 255)
_TILE = 240  # pixels; captions are drawn for tiles of this width


def write_reports(request: EvaluationRequest, evaluation: Evaluation, results: Results) -> None:
    """Write results.json, table.md and grid.png into the output folder.

    Raises:
        OutputError: one could not be written.
    """
    with atomic_file(request.output / RESULTS) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    with atomic_file(request.output / TABLE) as partial:
        partial.write_text(markdown(results), encoding="utf-8")
    _write_grid(request, evaluation, results)


def bucket_title(bucket: tuple[float, float] | None) -> str:
    """'10-20%'; 'all' for None."""
    return "all" if bucket is None else f"{bucket[0] * 100:.0f}-{bucket[1] * 100:.0f}%"


def number(value: float | None, metric: Metric) -> str:
    """A value as tables show it; a dash for none."""
    return "-" if value is None else f"{value:.{metric.digits}f}"


def shown_metrics(results: Results) -> list[Metric]:
    """Those of which there is any value."""
    return [m for m in METRICS if any(cell.value(m) is not None for cell in results.cells)]


def description(results: Results) -> list[str]:
    """What was compared, in whole sentences."""
    settings = results.settings
    size = "x".join(map(str, settings.size)) if settings.size else None
    count = len(results.methods)
    methods = f"{count} method{'s' if count > 1 else ''}"
    lines = [f"{results.compared} of {results.pairs} pairs, filled by {methods}."]
    if settings.masks:
        how = f"all brought to {size}" if size else "each picture brought to its mask's size"
        lines.append(f"Pictures of {settings.images}, holes of {settings.masks}, {how}.")
    else:
        how = f"all brought to {size}" if size else "each picture at its own size"
        lines.append(
            f"Pictures of {settings.images}, {how}; holes drawn with seed {settings.seed}."
        )
    if results.unclassed_masks:
        lines.append(f"{results.unclassed_masks} masks are of no class and were not used.")
    if results.unread:
        lines.append(f"{len(results.unread)} pictures were not read, listed in {RESULTS}.")
    if results.without_results:
        lines.append(f"Without any result: {', '.join(results.without_results)}.")
    if results.failures:
        lines.append(f"{len(results.failures)} failures, listed in {RESULTS}.")
    return lines


def markdown(results: Results) -> str:
    """The paper's table: metric and method down, area and border across; N: none, B: border."""
    columns: list[tuple[tuple[float, float] | None, bool | None]] = [
        (AREA_BUCKETS[c.bucket], c.border)
        for c in CLASSES
        if results.cell(results.methods[0], AREA_BUCKETS[c.bucket], c.border)
    ]
    columns += [(None, border) for border in (False, True, None) if _any_cell(results, border)]
    heads = [f"{bucket_title(b)}{_border_mark(border)}" for b, border in columns]
    lines = [
        "# Evaluation",
        "",
        *description(results),
        "N: holes away from the border, B: holes near it. All values are of the composite: "
        "known pixels are the picture's own.",
        "",
        f"| metric | method | {' | '.join(heads)} |",
        f"|---|---|{'---:|' * len(columns)}",
    ]
    for metric in shown_metrics(results):
        for method in results.methods:
            cells = [results.cell(method, *column) for column in columns]
            values = [number(cell.value(metric) if cell else None, metric) for cell in cells]
            lines.append(f"| {metric.title} | {_escaped(method)} | {' | '.join(values)} |")
    counts = [results.cell(results.methods[0], *column) for column in columns]
    lines.append(f"| pictures | | {' | '.join(str(c.pictures) if c else '0' for c in counts)} |")
    if results.inception_original is not None:
        lines += ["", f"Inception score of the originals: {results.inception_original:.2f}"]
    return "\n".join([*lines, *_differences(results)]) + "\n"


def _differences(results: Results) -> list[str]:
    """Differences of each method to the first, with more digits: an engine to its network."""
    first, *others = [cell for m in results.methods if (cell := results.cell(m, None, None))]
    metrics = shown_metrics(results)
    lines = [
        "",
        f"Differences to {_escaped(first.method)}, of the averages over all pairs:",
        "",
        f"| method | {' | '.join(metric.title for metric in metrics)} |",
        f"|---|{'---:|' * len(metrics)}",
    ]
    for cell in others:
        shown = []
        for metric in metrics:
            ours, theirs = cell.value(metric), first.value(metric)
            if ours is None or theirs is None:
                shown.append("-")
            else:
                shown.append(f"{ours - theirs:+z.{metric.digits + 2}f}")
        lines.append(f"| {_escaped(cell.method)} | {' | '.join(shown)} |")
    return lines if others else []


def _any_cell(results: Results, border: bool | None) -> bool:
    return results.cell(results.methods[0], None, border) is not None


def _border_mark(border: bool | None) -> str:
    return "" if border is None else " B" if border else " N"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _write_grid(request: EvaluationRequest, evaluation: Evaluation, results: Results) -> None:
    rows = {
        str(pair.number): list(tiles)
        for pair in example_pairs(evaluation.pairing)
        if (tiles := _tiles(pair, request, results.methods))
    }
    if rows:
        columns = [_fitting(title) for title in ("input", *results.methods, "original")]
        write_contact_sheet(request.output / GRID, columns, rows, "One picture for each area.")


def _tiles(pair: Pair, request: EvaluationRequest, methods: tuple[str, ...]) -> list[Image.Image]:
    """Input, each method's composite, original; nothing if the pair could not be read."""
    try:
        image, hole = load_pair(pair, request.protocol)
    except PConvError:
        return []
    damaged = image.copy()
    damaged[hole] = _HOLE_COLOUR
    area = bucket_title(AREA_BUCKETS[pair.hole_class.bucket])
    caption = f"{area}{', border' if pair.hole_class.border else ''}"
    original = Image.fromarray(image)
    blank = Image.new("RGB", original.size, (128, 128, 128))
    filled = []
    for method in methods:
        path = example_path(request.output, pair, method)
        filled.append(Image.open(path).convert("RGB") if path.is_file() else blank)
    return [_captioned(Image.fromarray(damaged), caption), *filled, original]


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    """The picture at the width of a tile, with words in its corner."""
    height = round(picture.height * _TILE / picture.width)
    tile = picture.resize((_TILE, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(tile)
    font = ImageFont.load_default(size=13)
    left, top, right, bottom = draw.textbbox((6, 4), caption, font=font)
    draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=(30, 30, 30))
    draw.text((6, 4), caption, fill=(255, 255, 255), font=font)
    return tile


def _fitting(title: str) -> str:
    """Cut in the middle, so that the title is no wider than its column."""
    font = ImageFont.load_default(size=14)
    shown = title
    while font.getlength(shown) > _TILE - 4 and len(shown) > 4:
        keep = (len(shown) - 2) // 2
        shown = f"{title[:keep]}...{title[-keep:]}"
    return shown
