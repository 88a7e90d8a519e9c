"""`pconv-deploy doctor`."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pconv_deploy.cli.console import OUT, print_json
from pconv_deploy.cli.options import JsonOutput

if TYPE_CHECKING:
    from pconv_deploy.commands.doctor import Finding


def doctor(json_output: JsonOutput = False) -> None:
    """Show what is installed, which backends work here, and why the others do not.

    A backend that "builds" makes engines that another machine runs. Exits with 0 whatever it
    finds; programs read --json.
    """
    from pconv_deploy.commands.doctor import diagnose

    diagnosis = diagnose()
    if json_output:
        print_json(diagnosis)
        return
    OUT.print(
        f"pconv-deploy {diagnosis.pconv_deploy}, Python {diagnosis.python}, {diagnosis.system}"
    )
    for title, findings in (("commands", diagnosis.commands), ("backends", diagnosis.backends)):
        OUT.print(f"\n[bold]{title}[/bold]")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            table.add_row(_verdict(finding), finding.name, escape(finding.detail))
        OUT.print(table, soft_wrap=False)
    OUT.print(f"\n[bold]GPU[/bold]\n  {escape(diagnosis.gpu)}")
    OUT.print("\n[bold]packages[/bold]")
    for name, version in diagnosis.packages.items():
        OUT.print(f"  {name:<23} {version or 'not installed'}")


def _verdict(finding: "Finding") -> str:
    if finding.works:
        return "  [green]works[/green]"
    return "  [yellow]builds[/yellow]" if finding.builds else "  [red]no[/red]"
