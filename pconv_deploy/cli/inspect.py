"""`pconv-deploy inspect`."""

from pathlib import Path

from rich.markup import escape

from pconv_deploy.cli.console import OUT, print_json
from pconv_deploy.cli.options import JsonOutput, WeightsKey
from pconv_deploy.cli.remedies import command_line
from pconv_deploy.errors import Remedy, needs


def inspect(
    file: Path,
    weights_key: WeightsKey = None,
    json_output: JsonOutput = False,
) -> None:
    """Show the facts of a file: network, tensors, shapes, origin, verification.

    Options:
        file: Checkpoint, exported ONNX file or engine folder.
    """
    with needs("pconv-deploy[onnxruntime]"):
        from pconv_deploy.commands.inspect import inspect_file

    facts = {
        key: command_line(fact) if isinstance(fact, Remedy) else fact
        for key, fact in inspect_file(file, weights_key).items()
    }
    if json_output:
        print_json(facts)
        return
    for key, fact in facts.items():
        if isinstance(fact, str):
            OUT.print(f"[bold]{key:>15}[/bold]  {escape(fact)}")
            continue
        for number, (name, value) in enumerate(fact.items()):
            label = "" if number else key
            OUT.print(f"[bold]{label:>15}[/bold]  {escape(name)}: {escape(value)}")
