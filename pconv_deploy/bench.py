"""How fast an engine is, and compared with what: all contenders take turns in one run.

Every contender does the same job: uint8 image and hole mask in, composited uint8 image out.
The engine is also timed in the stages around it, as `infer` goes through them.
"""

import io
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from pconv_deploy.contract import FILLED, HOLE_MASK, IMAGE
from pconv_deploy.errors import MissingRuntimeError, UsageError
from pconv_deploy.holes import irregular_hole
from pconv_deploy.images import like
from pconv_deploy.inpainter import Inpainter, finish
