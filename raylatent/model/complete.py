"""Whether a run has all rows that its plan promises, or has said why it lacks some."""

from collections.abc import Iterable
from functools import cached_property

from raylatent import schema
from raylatent.errors import RunError
from raylatent.parts import Part, read_footer
from raylatent.run import REPORT, RunDirectory
from raylatent.seal import parse_json


class Promised:
    """What sources.parquet and report.json say of a run's slides.

    Args:
        run: The run; nothing is read until it is needed, and then once.
    """

    def __init__(self, run: RunDirectory) -> None:
        """See the class."""
        self._run = run

    @cached_property
    def n_indexed(self) -> dict[str, int]:
        """Tiles of each slide."""
        sources = self._run.sources()
        columns = (
            sources[name].to_pylist() for name in (schema.SLIDE, schema.N_INDEXED)
        )
        return dict(zip(*columns, strict=True))

    @cached_property
    def failed(self) -> frozenset[str]:
        """Slides whose failure is on record: tiles may lack."""
        sources = self._run.sources()
        columns = (sources[name].to_pylist() for name in (schema.SLIDE, schema.ERROR))
        said = {slide for slide, error in zip(*columns, strict=True) if error}
        store = self._run.store
        if not store.exists(REPORT):
            return frozenset(said)
        report = parse_json(store.read(REPORT)) or {}  # broken, it tells of no failure
        failed = report.get("failed")
        return frozenset(said | (failed.keys() if isinstance(failed, dict) else set()))

    def lacking(self, parts: Iterable[Part]) -> dict[str, int]:
        """How many tiles the parts lack of each slide; slides that lack none are out.

        Args:
            parts: All parts of the run that can be read.
        """
        have = dict.fromkeys(self.n_indexed, 0)
        for part in parts:
            have[part.slide] = have.get(part.slide, 0) + part.rows + part.quarantined
        missing = {slide: n - have[slide] for slide, n in self.n_indexed.items()}
        return {slide: n for slide, n in sorted(missing.items()) if n > 0}

    def check_parts(self, slide: str) -> None:
        """Refuse a slide without parts, or whose parts have a gap that no error explains.

        Their names and the last one's footer are read: a broken part is noticed when
        its rows are.

        Raises:
            RunError: It has no part, or one is lost.
            BrokenPartError: The last part is broken.
        """
        run = self._run
        names = run.parts(slide)
        if not names:
            message = (
                f"{run.uri} has no rows of slide {slide!r}: run `raylatent activations`"
                " again"
            )
            raise RunError(message)
        if slide in self.failed:
            return
        units = [name.rsplit("/", 1)[-1].removesuffix(".parquet") for name in names]
        for expected, unit in enumerate(units):
            if not unit.isdigit() or int(unit) != expected:
                message = (
                    f"slide {slide!r} lacks part {expected:06d} in {run.uri}: run "
                    "`raylatent activations` again"
                )
                raise RunError(message)
        _, footer = read_footer(run.store, names[-1])
        n = self.n_indexed.get(slide, 0)
        last = int(footer.get(schema.FOOTER_LAST, n))
        if last < n:
            message = (
                f"slide {slide!r} lacks the last {n - last} of {n} tiles in {run.uri}: "
                "run `raylatent activations` again"
            )
            raise RunError(message)
