"""The `pconv-deploy` command."""

import sys
from typing import Annotated, NoReturn

import typer

from pconv_deploy.cli.bench import bench
from pconv_deploy.cli.build_engine import build_engine
from pconv_deploy.cli.console import ERR, OUT, show_warnings
from pconv_deploy.cli.convert import convert
from pconv_deploy.cli.demo import demo
from pconv_deploy.cli.doctor import doctor
from pconv_deploy.cli.evaluate import evaluate
from pconv_deploy.cli.export import export
from pconv_deploy.cli.infer import infer
from pconv_deploy.cli.inspect import inspect
from pconv_deploy.cli.masks import masks
from pconv_deploy.cli.package import package
from pconv_deploy.cli.plain_help import Commands, add_command, kebab_case
from pconv_deploy.cli.refit import refit
from pconv_deploy.cli.remedies import explain
from pconv_deploy.cli.serve import serve
from pconv_deploy.cli.signals import INTERRUPTED, TERMINATED, end_cleanly
from pconv_deploy.cli.streams import guarded_streams, reopen_closed_streams
from pconv_deploy.cli.train import train
from pconv_deploy.cli.triton_repo import triton_repo
from pconv_deploy.cli.verify import verify
from pconv_deploy.errors import InputError, OutputError, PConvError
from pconv_deploy.files import NO_SPACE

_EPILOG = (
    "Exit codes: 0 done, 2 usage, 3 unusable input, 4 parity failed, 5 unusable engine, "
    "6 package missing, 7 cannot write, 8 some files of a batch failed, 9 training diverged or "
    "lost a process, 130 interrupted, 143 terminated."
)
_COMMANDS = (
    train,
    convert,
    export,
    build_engine,
    refit,
    triton_repo,
    package,
    verify,
    infer,
    serve,
    bench,
    evaluate,
    inspect,
    doctor,
    demo,
)


app = typer.Typer(
    name="pconv-deploy",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": kebab_case,
    },
    epilog=_EPILOG,
)
for command in _COMMANDS:
    add_command(app, command)
app.add_typer(masks)


def _version(value: bool) -> None:
    if value:
        import pconv_deploy

        OUT.print(f"pconv-deploy {pconv_deploy.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Partial-convolution inpainting: checkpoint to ONNX to engine to filled holes.

    The usual way: export a checkpoint, build an engine from it, fill photos with the engine.
    """


def main() -> None:
    """Run the command line; errors a user can cause become one message and an exit code."""
    reopen_closed_streams()
    end_cleanly()
    show_warnings()
    try:
        with guarded_streams():
            app(prog_name="pconv-deploy")
    except PConvError as error:
        _exit(explain(error), error.exit_code)
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            _exit("interrupted" if stop.code == INTERRUPTED else "terminated", stop.code, prefix="")
        raise
    except KeyboardInterrupt:  # outside of the command itself
        _exit("interrupted", INTERRUPTED, prefix="")
    except OSError as error:
        if error.filename is None:
            raise
        code = OutputError.exit_code if error.errno in NO_SPACE else InputError.exit_code
        _exit(f"{error.filename}: {error.strerror}", code)
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # as pathlib has it before Python 3.13
            raise
        _exit(str(error), InputError.exit_code)


def _exit(message: str, code: int, prefix: str = "[bold red]error:[/bold red] ") -> NoReturn:
    with guarded_streams():
        ERR.print(prefix, end="")
        ERR.print(message, markup=False)
    sys.exit(code)
