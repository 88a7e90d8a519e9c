"""What was measured, as JSON has it and as people read it."""

from collections.abc import Sequence

import msgspec

from pconv_deploy.serving.load.measures import Mixed, Overhead, Throughput


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    backend      of the engine, and its precision and network
    options      of the server; the bare engine has the same instances and threads, and no batches
    size         (height, width) of all but the mixed load
    ready_after  seconds from the start of a process: (served, bare)
    rss_mib      resident memory after the load of that size: (served, bare)
    """

    backend: str
    processor: str
    cores: int
    options: dict[str, int | None]
    size: tuple[int, int]
    ready_after: tuple[float, float]
    rss_mib: tuple[float, float]
    overhead: Overhead
    throughput: tuple[Throughput, ...]
    mixed: Mixed
    versions: dict[str, str]


def as_markdown(report: Report) -> str:
    """Two tables and what they were measured on."""
    height, width = report.size
    over, mixed = report.overhead, report.mixed
    rows = [
        (
            f"p50 of one {width}x{height} image, 1 client, ms",
            f"{over.served_p50:.1f}",
            f"{over.bare_p50:.1f}",
            f"{over.added_p50:+.1f} (90 % of rounds below {over.added_p90:+.1f})",
        ),
        *(
            (
                f"images/s, {one.clients} clients",
                f"{one.served:.2f}",
                f"{one.bare:.2f}",
                f"{one.of_bare:.1%}; {one.of_bare_less_clients:.1%} less the "
                f"{one.clients_share:.1%} of the cores that the clients took",
            )
            for one in report.throughput
        ),
        _pair("resident memory after it, MiB", report.rss_mib, 0),
        _pair("ready after, s", report.ready_after, 1),
    ]
    statuses = ", ".join(f"{count} of {status}" for status, count in mixed.statuses.items())
    growth = "too few answers to say" if mixed.rss_growth is None else f"{mixed.rss_growth:+.1%}"
    facts = {
        "requests of mixed sizes and kinds": f"{mixed.requests} from {mixed.clients} clients",
        "answers by status": statuses,
        "answers that differ from `Inpainter`'s": str(mixed.wrong),
        "p50, p90, p99, ms": f"{mixed.p50:.0f}, {mixed.p90:.0f}, {mixed.p99:.0f}",
        "answers a second": f"{mixed.requests / mixed.seconds:.1f}",
        "resident memory after the first thousand, growth": growth,
        "file descriptors left": str(mixed.open_files_left),
    }
    options = ", ".join(f"{name} {value or 'by default'}" for name, value in report.options.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return (
        f"{report.backend}; {report.cores} cores of {report.processor}; {options}; {versions}.\n\n"
        + _table(("", "served", "bare engine", "served beside bare"), rows)
        + "\n"
        + _table(("", ""), list(facts.items()))
    )


def _pair(what: str, values: tuple[float, float], digits: int) -> tuple[str, str, str, str]:
    served, bare = values
    return what, f"{served:.{digits}f}", f"{bare:.{digits}f}", f"{served - bare:+.{digits}f}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
