"""What `build-engine` prints about the engine it has built."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from pconv_deploy.cli.console import ERR, OUT

if TYPE_CHECKING:
    from pconv_deploy.engines.manifest import Manifest
    from pconv_deploy.engines.tuning import Tuning


def print_engine(manifest: "Manifest", name: Path, *, exported: bool) -> None:
    """Print the facts of an engine; `exported`: its graph was made on the way."""
    from pconv_deploy.engines.acceptance import describe_mixed
    from pconv_deploy.engines.manifest import describe_parity
    from pconv_deploy.engines.windows.entry import describe_windows

    built, profiles = manifest.built_with, manifest.engine.profiles
    OUT.print(
        f"[bold]{escape(str(name))}[/bold]  {built.package} {built.version} on {built.device}, "
        f"{manifest.precision}" + ("" if profiles else f", {manifest.contract.describe_shapes()}")
    )
    if manifest.arrangement:
        OUT.print(f"form of the graph: {manifest.arrangement.describe()}{_gain(manifest.tuning)}")
    known = escape(describe_parity(manifest))
    if exported and manifest.export_parity:
        OUT.print(f"verified: {escape(manifest.export_parity.describe())}")
    OUT.print(f"verified: {known}" if manifest.engine_parity else known)
    OUT.print(f"windows: {escape(describe_windows(manifest.windows, manifest.no_windows))}")
    if mixed := describe_mixed(manifest.executed, manifest.precision):
        ERR.print(f"note: {mixed}", markup=False)
    if profiles:
        OUT.print("takes, as batch x height x width:")
        for profile in profiles:
            OUT.print(f"  {profile.describe()}", markup=False)
    if facts := manifest.quantisation:
        kept = escape(", ".join(facts.kept)) or "none"
        for why in facts.passed_over:
            ERR.print(f"note: passed over: {why}", markup=False)
        OUT.print(
            f"int8: calibrated on {facts.calibrated_on} photos ({facts.unusable} unusable); "
            f"{facts.psnr:.1f} dB in the holes of {facts.held_back} others "
            f"(worst {facts.worst_psnr:.1f}), filled by the {facts.judged_by}; "
            f"layers kept finer than int8: {kept}"
        )


def _gain(tuning: "Tuning | None") -> str:
    """How much faster tuning made it, as the product of the comparisons that were won."""
    if tuning is None:
        return ""
    won = [t.against / t.milliseconds for t in tuning.trials if t.kept and t.against]
    tried = len(tuning.trials)
    rejected = sum(trial.rejected is not None for trial in tuning.trials)
    return (
        f", the fastest of {tried} tried"
        + (f" ({rejected} faster ones differ too much from the graph)" if rejected else "")
        + f", {math.prod(won):.2f} times as fast as the usual one"
    )
