"""What lies in a run directory, sorted: our files by what they are, and the others."""

import re
from collections import defaultdict
from dataclasses import dataclass, field

from raylatent.parts import is_part, unescape_partition
from raylatent.run import layout
from raylatent.run.directory import RunDirectory

_PARTITION = r"slide=(?P<slide>[^/]+)"
_PART = rf"{_PARTITION}/[0-9]{{6,}}\.parquet"
_PICTURE = r"[^/]+\.(?:png|jpg|jpeg|pdf|svg|csv)"
_STAGES = f"{layout.ACTIVATIONS}|{layout.QUARANTINE}|{layout.TILES}|{layout.GRIDS}"
_ROWS = re.compile(rf"(?P<kind>{_STAGES})/{_PART}")
_POINTS = re.compile(rf"{layout.MAPS}/(?P<name>[^/]+)/points/{_PART}")
_OF_MAPS = re.compile(
    rf"(?P<kind>{layout.MAPS})/(?P<name>[^/]+)/(?:map\.json|model\.npz|{_PICTURE})"
    rf"|(?P<kind2>{layout.MOSAICS})/(?P<name2>[^/]+)/"
    rf"(?:mosaic\.json|cells\.parquet|{_PICTURE})"
)
_REST = re.compile(
    rf"{layout.THUMBNAILS}/{_PARTITION}/grid\.jpg"
    rf"|{layout.FINISHED}/slide=(?P<finished>[^/]+)/record\.json"
    rf"|{layout.REMOVED}/{layout.SOURCES}"
    rf"|(?P<removed>{layout.REMOVED})/(?:{_STAGES})/slide=[^/]+/[0-9]{{6,}}\.parquet"
    rf"|{layout.REMOVED}/{layout.THUMBNAILS}/slide=[^/]+/grid\.jpg"
)

BySlide = dict[str, list[str]]


def _by_slide() -> BySlide:
    return defaultdict(list)


@dataclass(kw_only=True)
class Inventory:
    """Names of the files of a run, each list sorted.

    Attributes:
        stages: Parts by stage (`activations`, `quarantine`, `tiles`, `grids`), slide.
        points: Parts of maps by map, slide.
        maps: Names of maps that have any file.
        mosaics: Names of mosaics likewise.
        finished: Slides that were extracted.
        removed: Parts that are set aside.
        foreign: Files in our folders that are none of ours.
        asides: Files that are, or were, being written.
    """

    stages: dict[str, BySlide] = field(default_factory=lambda: defaultdict(_by_slide))
    points: dict[str, BySlide] = field(default_factory=lambda: defaultdict(_by_slide))
    maps: set[str] = field(default_factory=set)
    mosaics: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    asides: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Sort one file in."""
        if match := _ROWS.fullmatch(name) or _POINTS.fullmatch(name):
            slide = unescape_partition(match["slide"])
            if not is_part(name):  # another spelling of one
                self.foreign.append(name)
            elif "kind" in match.groupdict():
                self.stages[match["kind"]][slide].append(name)
            else:
                self.maps.add(match["name"])
                self.points[match["name"]][slide].append(name)
        elif match := _OF_MAPS.fullmatch(name):
            if match["kind"]:
                self.maps.add(match["name"])
            else:
                self.mosaics.add(match["name2"])
        elif match := _REST.fullmatch(name):
            if match["finished"]:
                self.finished.add(unescape_partition(match["finished"]))
            elif match["removed"]:
                (self.removed if is_part(name) else self.foreign).append(name)
            elif name == f"{layout.REMOVED}/{layout.SOURCES}":
                self.removed.append(name)
        else:
            self.foreign.append(name)


def take_inventory(run: RunDirectory) -> Inventory:
    """List a run's folders, each once."""
    found = Inventory(asides=asides(run))
    for folder in layout.FOLDERS:
        for name in run.store.list(folder):
            found.add(name)
    return found


def asides(run: RunDirectory) -> list[str]:
    """Files at the run's root and in its folders that are, or were, being written."""
    names = [name for name in run.store.root_files() if name.endswith(".aside")]
    for folder in dict.fromkeys(run.folders):
        names += [f"{folder}/{name}" for name in run.store.child(folder).asides()]
    return names
