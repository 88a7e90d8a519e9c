"""An engine without a server, as a process: what it takes is what serving is compared with.

Run as a file, so that nothing of the server is imported. Reads lines of JSON and answers each:
null: one call; a number: calls for so many seconds, from one thread for each instance.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pconv_deploy.inpainter import Inpainter


def main(engine: str, options: dict[str, Any]) -> None:
    """Answer the lines of standard input until it ends.

    Args:
        engine: its folder.
        options: `threads` (or None), `instances`, and `image` and `hole_mask`, files of arrays.
    """
    instances = options["instances"]
    inpaint = Inpainter.load(engine, threads=options["threads"], streams=instances)
    inpaint.warm_up()
    image, hole_mask = np.load(options["image"]), np.load(options["hole_mask"])
    _say({"ready": True})

    def calls(seconds: float) -> int:
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            inpaint(image, hole_mask)
            count += 1
        return count

    with inpaint, ThreadPoolExecutor(instances) as pool:
        for line in sys.stdin:
            begun, seconds = time.perf_counter(), json.loads(line)
            if seconds is None:
                inpaint(image, hole_mask)
                images = 1
            else:
                images = sum(pool.map(calls, [seconds] * instances))
            _say({"images": images, "seconds": time.perf_counter() - begun})


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
