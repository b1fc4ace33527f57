"""What `raylatent verify` says."""

from typing import TYPE_CHECKING

from raylatent.cli.saying import fail, say
from raylatent.config import VerifyConfig

if TYPE_CHECKING:
    from raylatent.stored.verification import Verification

_SHOWN = 50


def verify(config: VerifyConfig) -> int:
    """Check a run, and say what was found; the exit code."""
    from raylatent.engine.verify import verify_run  # noqa: PLC0415  (ray: slow)

    report = verify_run(config)
    _say_counts(report)
    for note in report.notes[:_SHOWN]:
        fail(f"note: {note}", 0)
    if len(report.notes) > _SHOWN:
        fail(f"note: and {len(report.notes) - _SHOWN} more of these", 0)
    for finding in report.findings[:_SHOWN]:
        fail(str(finding), 1)
    if len(report.findings) > _SHOWN:
        fail(f"and {len(report.findings) - _SHOWN} more things are wrong", 1)
    if report.findings:
        return 1
    if report.worked_on_by is not None:
        return fail(f"unfinished: {report.worked_on_by} works on {report.run}", 1)
    say(f"verified  {report.run}")
    return 0


def _say_counts(report: "Verification") -> None:
    counts = report.counts
    say(
        f"slides    {counts['slides']:,}, {counts['rows']:,} rows, "
        f"{counts['quarantined']:,} tiles quarantined, {counts['missing']:,} missing"
    )
    say(f"parts     {counts['parts']:,}, {counts['bytes']:,} bytes checked")
    for name, n_points in report.points.items():
        say(f"map       {name}, {n_points:,} points")
    for name in report.mosaics:
        say(f"mosaic    {name}")
    if report.sources:
        states = (f"{n:,} {state}" for state, n in report.sources.most_common())
        records = f", {n:,} records checked" if (n := counts["records"]) else ""
        say(f"sources   {', '.join(states)}{records}")
