"""The commands that mend failures, as one types them."""

import shlex
from collections.abc import Iterator, Mapping

from pconv_deploy.errors import PConvError, Remedy

_SHORT = {"output": "-o", "level": "-O"}


def explain(error: PConvError) -> str:
    """Return an error's message, and on a line of its own the command that mends it."""
    remedy = error.remedy or getattr(error.__cause__, "remedy", None)
    if remedy is None:
        return str(error)
    stop = "" if str(error).endswith(".") else "."
    return f"{error}{stop}\n  {remedy.purpose}: {command_line(remedy)}"


def command_line(remedy: Remedy) -> str:
    """Return the command as a shell takes it."""
    words = [*map(str, remedy.arguments), *_words(remedy.options)]
    begin = remedy.typed or f"pconv-deploy {remedy.command}"
    line = f"{begin} {shlex.join(words)}".rstrip()
    return line.encode(errors="replace").decode()  # names of files need not be Unicode


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        option = _SHORT.get(name, "--" + name.replace("_", "-"))
        if value is True:
            yield option
        else:
            for each in value if isinstance(value, tuple) else (value,):
                yield from (option, str(each))
