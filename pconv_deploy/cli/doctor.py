"""`pconv-deploy doctor`."""

from typing import Annotated

import typer
from rich.markup import escape

from pconv_deploy.cli.console import OUT


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed, which backends work here, and why the others do not."""
    import msgspec

    from pconv_deploy.doctor import diagnose

    diagnosis = diagnose()
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode())  # noqa: T201
        return
    OUT.print(
        f"pconv-deploy {diagnosis.pconv_deploy}, Python {diagnosis.python}, {diagnosis.system}"
    )
    for title, findings in (("commands", diagnosis.commands), ("backends", diagnosis.backends)):
        OUT.print(f"\n[bold]{title}[/bold]")
        for finding in findings:
            verdict = "[green]works[/green]" if finding.works else "[red]no   [/red]"
            OUT.print(f"  {verdict}  {finding.name:<14} {escape(finding.detail)}")
    OUT.print("\n[bold]packages[/bold]")
    for name, version in diagnosis.packages.items():
        OUT.print(f"  {name:<23} {version or 'not installed'}")
