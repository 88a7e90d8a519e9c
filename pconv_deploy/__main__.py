"""The process of `pconv-deploy`, and of `python -m pconv_deploy`."""

import os
import signal


def main() -> None:
    """Run the command line in a process of its own, which Ctrl-C may end at any time."""
    # Python's handler would print a traceback while the command line is being imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pconv_deploy.cli.main import main as run_command_line
    from pconv_deploy.cli.signals import INTERRUPTED, TERMINATED

    try:
        run_command_line()
    except SystemExit as stop:
        if stop.code in (INTERRUPTED, TERMINATED):
            # All is cleared and flushed. The interpreter's own clean-up would go on to destroy
            # what a signal may have stopped half-way, an import of torch say, and crash.
            os._exit(int(stop.code))
        raise


if __name__ == "__main__":
    main()
