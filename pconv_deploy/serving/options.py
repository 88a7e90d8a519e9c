"""How a server runs, and what it accepts."""

from dataclasses import dataclass

from pconv_deploy.errors import UsageError
from pconv_deploy.images.files import DEFAULT_MAX_PIXELS
from pconv_deploy.regions import DEFAULT_REGIONS, RegionOptions

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Options of `serving.create_app`, and of `pconv-deploy serve` by the same names.

    max_batch_size      images in one run of an engine; None: 1 on a CPU, 8 on a GPU
    max_queue_delay_us  microseconds that a request waits for others of its size at most;
                        None: 0 on a CPU, 2000 on a GPU
    max_queue           requests that wait for each engine beside those being filled; further ones
                        are answered 503
    instances           runs of each engine at the same time
    threads             CPU threads of one run; None: all cores, divided by `instances`
    max_pixels          larger pictures are refused before they are decoded
    regions             how much of a photo the network sees
    max_body_bytes      of a request; longer ones are answered 413
    api_keys            one of them must come with a request; empty: none is needed
    """

    max_batch_size: int | None = None
    max_queue_delay_us: int | None = None
    max_queue: int = 64
    instances: int = 1
    threads: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    regions: RegionOptions = DEFAULT_REGIONS
    max_body_bytes: int = 64 * MIB
    api_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = {
            "max_batch_size": (1, 1024),
            "max_queue_delay_us": (0, 10_000_000),
            "max_queue": (1, 100_000),
            "instances": (1, 64),
            "threads": (1, 1024),
            "max_pixels": (1, 178_000_000),
            "max_body_bytes": (1024, 1024 * MIB),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"found {name}={value!r}; needed {least} to {most}")
