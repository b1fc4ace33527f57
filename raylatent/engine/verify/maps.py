"""Maps and mosaics of a run: their files, and what their slides are compared with."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raylatent import schema
from raylatent.engine.verify.points import digest_of_digests
from raylatent.mapping.check import check_map
from raylatent.mapping.stored_plot import PICTURE_FILES
from raylatent.montage.check import check_mosaic, picture_complaint
from raylatent.run import MAPS, MOSAICS
from raylatent.run.findings import BROKEN, MISSING, WRONG, Finding, SlideFound
from raylatent.run.inventory import Inventory
from raylatent.storage import Store

_PNGS = tuple(file for file in PICTURE_FILES if file.endswith(".png"))


@dataclass(kw_only=True)
class Drawn:
    """What was found of maps and mosaics.

    Attributes:
        of_all_rows: Maps that place all rows of the run, and their model's digest.
        infos: map.json of these.
        chosen: By slide and mosaic, the tiles that cells name: tile_index, offset.
        findings: What is wrong with their files.
        of_maps: What is wrong with points, by map.
        points: Points by map.
        n_bytes: Of the files of mosaics.
    """

    of_all_rows: dict[str, str | None] = field(default_factory=dict)
    infos: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    chosen: dict[str, dict[str, pa.Table]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    findings: list[Finding] = field(default_factory=list)
    of_maps: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    points: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0

    def add(self, found: SlideFound) -> None:
        """What was found of one slide."""
        for name, findings in found.of_maps.items():
            self.of_maps[name] += findings
        for findings in found.of_mosaics.values():
            self.findings += findings
        self.points.update(found.points)

    def finish(
        self,
        findings: list[Finding],
        notes: list[str],
        of_rows: Sequence[tuple[str, str]],
        *,
        damaged: bool,
    ) -> None:
        """Add what is wrong, and say which maps are of other rows than there are.

        Args:
            findings: Are added to.
            notes: Likewise.
            of_rows: (name, digest) of all parts that have rows.
            damaged: Whether anything is wrong with the rows.
        """
        current = digest_of_digests(of_rows)
        findings += self.findings
        for name, info in self.infos.items():
            wrong = self.of_maps[name]
            if not damaged and info["rows"] != current:
                notes.append(
                    f"the map {name} is of other rows than the run has now: run "
                    "`raylatent map` again"
                )
                wrong = [finding for finding in wrong if finding.kind == BROKEN]
            elif not damaged and not wrong:
                points = info.get("points")
                told = points.get("rows") if isinstance(points, dict) else None
                if points is not None and told != self.points[name]:
                    says = f"it has {told} points, there are {self.points[name]}"
                    wrong = [Finding(WRONG, f"{MAPS}/{name}/map.json", says)]
            findings += wrong


def look_at_maps(store: Store, files: Inventory, *, sealed: bool) -> Drawn:
    """Read what maps and mosaics have beside points.

    Args:
        store: The run directory.
        files: What lies there.
        sealed: Whether all of it must have seals.

    Raises:
        StorageError: A file cannot be read, after retries.
    """
    drawn = Drawn()
    for name in sorted(files.maps):
        _look_at_map(store, name, drawn, sealed=sealed)
    for name in sorted(files.mosaics):
        _look_at_mosaic(store, name, drawn, sealed=sealed)
    return drawn


def _look_at_map(store: Store, name: str, drawn: Drawn, *, sealed: bool) -> None:
    folder = store.child(f"{MAPS}/{name}")
    found = check_map(folder, sealed=sealed)
    complaints = dict(found.complaints)
    for file in filter(folder.exists, _PNGS):
        if why := picture_complaint(folder.read(file)):
            complaints[file] = why
    _complain(drawn, folder, f"{MAPS}/{name}", complaints)
    if "rows" in found.info:
        drawn.of_all_rows[name] = found.digest
        drawn.infos[name] = found.info


def _look_at_mosaic(store: Store, name: str, drawn: Drawn, *, sealed: bool) -> None:
    folder = store.child(f"{MOSAICS}/{name}")
    found = check_mosaic(folder, sealed=sealed)
    _complain(drawn, folder, f"{MOSAICS}/{name}", found.complaints)
    drawn.n_bytes += found.n_bytes
    if found.chosen is None:
        return
    positions: dict[str, list[int]] = defaultdict(list)
    for position, slide in enumerate(found.chosen[schema.SLIDE].to_pylist()):
        if slide is not None:  # else it was made of pictures
            positions[slide].append(position)
    for slide, at in positions.items():
        drawn.chosen[slide][name] = found.chosen.take(pa.array(at))


def _complain(
    drawn: Drawn, store: Store, folder: str, complaints: Mapping[str, str]
) -> None:
    for file, why in sorted(complaints.items()):
        kind = BROKEN if store.exists(file) else MISSING
        drawn.findings.append(Finding(kind, f"{folder}/{file}", why))
