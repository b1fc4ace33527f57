"""What is checked of a run's slides, and what is found wrong."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raylatent.errors import BrokenPartError, StorageError
from raylatent.run import layout
from raylatent.run.checked import CheckedPart, check_part
from raylatent.storage import Store

BROKEN = "broken"  # bytes are not those that were written
MISSING = "missing"  # what was there once
WRONG = "wrong"  # whole, but not what belongs there
FOREIGN = "foreign"  # none of ours
INCOMPLETE = "incomplete"  # never finished


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file.

    Attributes:
        kind: One of the constants above.
        name: The file, in the run directory.
        says: What is wrong.
    """

    kind: str
    name: str
    says: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.kind}: {self.name}: {self.says}"


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """What the plan promises of a slide, and what is listed of it.

    Attributes:
        slide: Its name.
        n_indexed: Tiles promised, None where the plan cannot be read.
        source: The source as footers have it, None likewise.
        was_whole: Whether the report says that all tiles were accounted for.
        fingerprint: Of the run, None where run.json cannot be read.
        layers: JSON of stored layers as footers have it, None likewise.
        sealed: Whether the run is of since there are seals.
        n_units: Parts that its tiles make, None where only its grid tells.
        stage: Folder of the rows.
        rows: Names of row parts.
        quarantine: Names of quarantine parts.
        grids: Names of grids; one is wanted where `has_grid`.
        has_grid: Whether tiles are cut out of a whole slide.
        points: Names of points parts by map, of maps of all rows.
        others: Names of other parts, of which only the bytes are checked.
        models: Digest of the model of each map, where map.json tells it.
        chosen: By mosaic, tiles that its cells name: tile_index, offset.
    """

    slide: str
    n_indexed: int | None
    source: str | None
    was_whole: bool
    fingerprint: str | None
    layers: str | None
    sealed: bool = False
    n_units: int | None = None
    stage: str = layout.ACTIVATIONS
    rows: tuple[str, ...] = ()
    quarantine: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    has_grid: bool = False
    points: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    models: Mapping[str, str | None] = field(default_factory=dict)
    chosen: Mapping[str, pa.Table] = field(default_factory=dict)

    @property
    def n_parts(self) -> int:
        """Files that are read."""
        of_maps = sum(len(names) for names in self.points.values())
        of_rows = len(self.rows) + len(self.quarantine) + len(self.grids)
        return of_rows + len(self.others) + of_maps


@dataclass(kw_only=True)
class SlideFound:
    """What was found of a slide.

    Attributes:
        slide: Its name.
        sealed: Whether its parts must have seals.
        findings: What is wrong with rows, quarantine and grid.
        of_maps: What is wrong with points, by map.
        of_mosaics: What is wrong with cells, by mosaic.
        counts: `rows`, `quarantined`, `parts`, `bytes`, `unsealed`, `missing` tiles.
        points: Points by map.
        digests: (name, digest of the rows) of each part that has rows.
    """

    slide: str
    sealed: bool = False
    findings: list[Finding] = field(default_factory=list)
    of_maps: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    of_mosaics: dict[str, list[Finding]] = field(
        default_factory=lambda: defaultdict(list)
    )
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    points: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    digests: list[tuple[str, str]] = field(default_factory=list)

    def read(
        self, store: Store, name: str, columns: tuple[str, ...], to: list[Finding]
    ) -> CheckedPart | None:
        """A part, None where it is broken or gone: a finding says so."""
        try:
            part = check_part(store, name, columns, sealed=self.sealed)
        except BrokenPartError as error:
            to.append(Finding(BROKEN, name, str(error).split(" is broken: ", 1)[-1]))
            return None
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            to.append(Finding(MISSING, name, "it is gone since it was listed"))
            return None
        self.counts["parts"] += 1
        self.counts["bytes"] += part.n_bytes
        self.counts["unsealed"] += not part.sealed
        return part

    def read_only(self, store: Store, names: Iterable[str | None]) -> None:
        """Parts that nothing can be compared with: their bytes are checked."""
        for name in names:
            if name is not None:
                self.read(store, name, (), self.findings)
