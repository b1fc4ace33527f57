"""What lies in a run, compared with its manifests and its plan. No Ray, no writing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raylatent import schema
from raylatent.errors import BrokenPartError, StorageError
from raylatent.mapping.fitted_map import MODEL_NPZ
from raylatent.parts import (
    Part,
    check_part,
    is_part,
    part_name,
    partition_folder,
    rows_digest,
    slide_of,
    unit_of,
)
from raylatent.run import layout
from raylatent.run.layout import is_inside, manifest_of, manifest_of_file
from raylatent.run.settings import RUN_JSON
from raylatent.seal import DIGEST, FILES, json_holds, parse_json
from raylatent.storage import Store
from raylatent.stored.manifest import Files, digest_of_file, told_digests
from raylatent.stored.maps import MAP_JSON
from raylatent.stored.mosaics import MOSAIC_JSON
from raylatent.terminal import visible

BROKEN = "broken"  # bytes are not those that were written
MISSING = "missing"  # what was there once
WRONG = "wrong"  # whole, but not what belongs there
FOREIGN = "foreign"  # none of ours
INCOMPLETE = "incomplete"  # never finished

_SEALED_JSON = frozenset(
    {RUN_JSON, MAP_JSON, MOSAIC_JSON, "record.json"}
    | {layout.REPORT, layout.EXPLORER_JSON, layout.CLUSTERS_JSON}
)
_NOT_WRITTEN = "it is not the file that was written"
_MANIFESTS = f"{layout.MANIFESTS}/"
_OF_UNITS = (layout.ACTIVATIONS, layout.QUARANTINE, layout.TILES)
_WITH_PICTURES = (f"{layout.MAPS}/", f"{layout.MOSAICS}/")
_NOT_COMPARED = frozenset({schema.FOOTER_LAYERS, schema.FOOTER_REMARKS})  # and long


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
        """In one line, without what would move a terminal's cursor."""
        return visible(f"{self.kind}: {self.name}: {self.says}")


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file as it was read.

    Attributes:
        name: In the run directory.
        size: In bytes.
        digest: Its seal, if its bytes are those that were sealed; of a file without a
            seal the digest of its bytes.
        about: The footer of a Parquet file, or the JSON object.
        rows: Of a Parquet file.
        why: What is wrong with it, None where nothing is.
    """

    name: str
    size: int = 0
    digest: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    why: str | None = None


def read_states(store: Store, names: Iterable[str]) -> list[FileState]:
    """Read some files of a run, every byte of them; files that are gone are left out.

    Raises:
        StorageError: One cannot be read, after retries.
    """
    states = []
    for name in names:
        try:
            states.append(_state(store, name))
        except BrokenPartError as error:
            states.append(FileState(name=name, why=error.why))
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return states


def _state(store: Store, name: str) -> FileState:
    if name.endswith(".parquet"):
        part = check_part(store, name)
        footer = {k: v for k, v in part.footer.items() if k not in _NOT_COMPARED}
        return FileState(
            name=name,
            size=part.n_bytes,
            digest=footer.get(schema.FOOTER_SEAL),
            about=footer,
            rows=part.rows,
        )
    if _seals_itself(name):
        data = store.read(name)
        about = parse_json(data)
        if about is None or not json_holds(about):
            return FileState(name=name, why="it is not as it was written")
        return FileState(name=name, size=len(data), digest=about[DIGEST], about=about)
    found = digest_of_file(store, name)
    return FileState(name=name, size=found.size, digest=found.digest)


def _seals_itself(name: str) -> bool:
    return name.endswith(".parquet") or name.rsplit("/", 1)[-1] in _SEALED_JSON


def mismatch(
    state: FileState | None, footer: Mapping[str, str | None], rows: int | None = None
) -> str | None:
    """Why a part is not sound or not the one that it should be, None if it is.

    Args:
        state: The part as it was read, None where there is none.
        footer: What its footer must have.
        rows: How many rows it must have.
    """
    if state is None:
        return "it is missing"
    if state.why is not None:
        return state.why
    for key, value in footer.items():
        if state.about.get(key) != value:
            what = key.removeprefix("raylatent.")
            return f"its {what} is {state.about.get(key)}, not {value}"
    if rows not in {None, state.rows}:
        return f"it has {state.rows} rows, not {rows}"
    return None


@dataclass(frozen=True)
class Planned:
    """What the plan says of a slide.

    Attributes:
        n_indexed: Tiles.
        source: Its source, as footers have it.
        has_grid: Whether its tiles were cut out of a whole slide.
    """

    n_indexed: int
    source: str
    has_grid: bool = False


@dataclass(kw_only=True)
class Verification:
    """A run's files, and what is wrong with them.

    Attributes:
        run: The run directory.
        verb: What made it.
        listed: The files of all manifests.
        manifests: Names of the manifests that can be read.
        plan: By slide, None where it cannot be read.
        states: The files that are there, by name.
        findings: What is wrong; of a file the first thing that was found.
        notes: What is worth knowing, and is not wrong.
        counts: `slides`; `rows`, `quarantined`, `missing` tiles; `parts`, `bytes`,
            `records` of sources that were read.
        points: By map.
        mosaics: Names.
        pages: Names of the maps that have one to walk in.
        sources: How many are as they were, changed, gone, cannot be looked at.
        worked_on_by: The driver that works on the run, None where none does.
    """

    run: str
    verb: str = "activations"
    listed: Files = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)
    plan: Mapping[str, Planned] | None = None
    states: Mapping[str, FileState] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    points: dict[str, int] = field(default_factory=dict)
    mosaics: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    worked_on_by: str | None = None
    _wrong: set[str] = field(default_factory=set)

    def add(self, kind: str, name: str, says: str) -> None:
        """Add a finding, unless there is one of this file already."""
        if name not in self._wrong:
            self._wrong.add(name)
            self.findings.append(Finding(kind, name, says))

    def add_manifest(self, name: str, files: Files) -> None:
        """Take in what a manifest lists; one of other files is a finding."""
        own = (manifest_of_file(path, self.verb) == name for path in files)
        if all(own) and all(map(is_inside, files)):
            self.listed |= files
            self.manifests.add(name)
        else:
            self.add(WRONG, name, "it lists files that are not its own")

    def compare(self) -> None:
        """Find what is wrong with the files that were read."""
        self.counts["slides"] = len(self.plan or ())
        for state in self.states.values():
            if state.why is not None:
                self.add(BROKEN, state.name, state.why)
            self.counts["bytes"] += state.size
            self.counts["parts"] += is_part(state.name)
        self._compare_listed()
        for state in self.states.values():
            if state.why is None and (why := self._stranger(state)) is not None:
                self.add(WRONG, state.name, why)
        self._compare_told()
        self._find_unfinished()
        self._count_tiles()
        self._compare_maps()
        self._compare_mosaics()
        self._compare_pages()
        self._note_absent_manifests()

    def _compare_listed(self) -> None:
        for name, listed in self.listed.items():
            state = self.states.get(name)
            if state is None:
                manifest = manifest_of_file(name, self.verb)
                self.add(MISSING, name, f"{manifest} lists it")
            elif (state.size, state.digest) != (listed.size, listed.digest):
                kind = WRONG if _seals_itself(name) else BROKEN
                self.add(kind, name, _NOT_WRITTEN)
        for name in self.states:
            manifest = manifest_of_file(name, self.verb)
            if name in self.listed or manifest not in self.manifests:
                continue
            drawn = name.startswith(_WITH_PICTURES) and not _seals_itself(name)
            if not drawn and not name.startswith(_MANIFESTS):  # else somebody's picture
                self.add(WRONG, name, f"{manifest} does not list it")

    def _stranger(self, state: FileState) -> str | None:
        """Why a sound part does not belong where it is, None if it does."""
        footer, name = state.about, state.name
        slide, stage = str(slide_of(name)), name.split("/", 1)[0]
        if not is_part(name) or stage == layout.REMOVED:
            return None  # what was set aside may never have belonged to the run
        wanted: dict[str, str | None] = {schema.FOOTER_SLIDE: slide}
        if schema.FOOTER_UNIT in footer:
            wanted[schema.FOOTER_UNIT] = str(unit_of(name))
        if schema.FOOTER_MAP in footer:  # a map that Python saved has none
            files = self._told_by(f"{name.rsplit('/', 3)[0]}/{MAP_JSON}").get(FILES)
            if isinstance(files, dict) and MODEL_NPZ in files:
                wanted[schema.FOOTER_MAP] = files[MODEL_NPZ]
        if stage not in _OF_UNITS:
            wanted[schema.FOOTER_FINGERPRINT] = None
        else:
            run, plan = self._told_by(RUN_JSON), self._sound_plan
            if "fingerprint" in run:
                wanted[schema.FOOTER_FINGERPRINT] = run["fingerprint"]
            record = f"{layout.FINISHED}/{partition_folder(slide)}/record.json"
            if slide in plan and record not in self.states:  # else it has no rows
                wanted[schema.FOOTER_SOURCE] = plan[slide].source
        return mismatch(state, wanted)

    def _told_by(self, name: str) -> Mapping[str, Any]:
        """What a file tells that nothing is wrong with; nothing of any other."""
        state = self.states.get(name)
        return {} if state is None or name in self._wrong else state.about

    @property
    def _sound_plan(self) -> Mapping[str, Planned]:
        return {} if layout.SOURCES in self._wrong else self.plan or {}

    def _compare_told(self) -> None:
        """Where no manifest lists them, compare files with what others tell of them."""
        for name in list(self.states):
            if name in self.listed:
                continue
            for path, digest in told_digests(name, self._told_by(name)).items():
                other = self.states.get(path)
                if other is None:
                    self.add(MISSING, path, f"{name} tells of it")
                elif other.digest != digest:
                    self.add(BROKEN, path, _NOT_WRITTEN)

    def _find_unfinished(self) -> None:
        """What verbs put in place last."""
        if self._lacks(layout.SOURCES):
            self.add(INCOMPLETE, layout.SOURCES, "the run has no plan: run again")
        if self._lacks(layout.REPORT):
            says = "there is none: the run has not ended yet, run again"
            self.add(INCOMPLETE, layout.REPORT, says)
        for verb, folder, last in (
            ("map", layout.MAPS, MAP_JSON),
            ("mosaic", layout.MOSAICS, MOSAIC_JSON),
            ("explore", layout.EXPLORER, layout.EXPLORER_JSON),
        ):
            for name in self._outputs(folder):
                if self._lacks(f"{folder}/{name}/{last}"):
                    says = f"there is none: run `raylatent {verb}` again"
                    self.add(INCOMPLETE, f"{folder}/{name}/{last}", says)

    def _lacks(self, name: str) -> bool:
        return name not in self.states and name not in self.listed

    def _outputs(self, folder: str) -> list[str]:
        """Names of the maps or mosaics."""
        names = {*self.states, *self.listed}
        found = (name.split("/") for name in names if name.startswith(f"{folder}/"))
        return sorted({parts[1] for parts in found})

    def sound_below(self, folder: str) -> Iterator[FileState]:
        """The files below a folder that nothing is wrong with."""
        for name, state in self.states.items():
            if name.startswith(f"{folder}/") and name not in self._wrong:
                yield state

    def _count_tiles(self) -> None:
        """Promise 1: each planned tile is a row, or quarantined."""
        rows: Counter[str] = Counter()
        bad: Counter[str] = Counter()
        extracted = set()
        for state in self.sound_below(layout.FINISHED):
            slide = str(slide_of(state.name))
            if self.plan is None or slide in self.plan:  # else not named any more
                extracted.add(slide)
                rows[slide] += _number(state.about.get("tiles"))
        for state in self.sound_below(layout.QUARANTINE):
            if (slide := str(slide_of(state.name))) in extracted:
                bad[slide] += state.rows
        for state in list(self.sound_below(self._stage)):
            if (slide := str(slide_of(state.name))) not in extracted:
                rows[slide] += state.rows
                bad[slide] += self._count_quarantined(state, slide)
        self.counts["rows"] = rows.total()
        self.counts["quarantined"] = bad.total()
        if layout.SOURCES not in self._wrong and self.plan is not None:
            tiles = {slide: rows[slide] + bad[slide] for slide in rows}
            self._compare_with_plan(self.plan, tiles)

    @property
    def _stage(self) -> str:
        return layout.ACTIVATIONS if self.verb == "activations" else layout.TILES

    def _count_quarantined(self, part: FileState, slide: str) -> int:
        """Rows of a part's quarantine, as many as the part says."""
        n_bad = _number(part.about.get(schema.FOOTER_QUARANTINED))
        name = part_name(layout.QUARANTINE, slide, unit_of(part.name))
        state = self.states.get(name)
        if not n_bad:
            return 0
        if state is None:
            self.add(MISSING, name, f"its part has {n_bad} quarantined tiles")
        elif state.rows != n_bad:
            self.add(WRONG, name, f"it has {state.rows} rows, not {n_bad}")
        return n_bad if name not in self._wrong else 0

    def _compare_with_plan(
        self, plan: Mapping[str, Planned], tiles: Mapping[str, int]
    ) -> None:
        damaged = {slide_of(name) for name in self._wrong}
        for slide in sorted({*plan, *tiles}):
            n_indexed = plan[slide].n_indexed if slide in plan else 0
            grid = part_name(layout.GRIDS, slide, 0)
            if slide in plan and plan[slide].has_grid and self._lacks(grid):
                self.add(MISSING, grid, "the slide has no grid")
            lost = n_indexed - tiles.get(slide, 0)
            self.counts["missing"] += max(0, lost)
            name = f"{self._stage}/{partition_folder(slide)}"
            if lost > 0 and slide not in damaged:
                says = f"{lost} of {n_indexed} tiles are not done: run again"
                self.add(INCOMPLETE, name, says)
            elif lost < 0 and slide not in damaged:
                says = f"it has {-lost} tiles more than the {n_indexed} of the plan"
                self.add(WRONG, name, says)

    def _compare_maps(self) -> None:
        damaged = any(name.startswith(layout.ACTIVATIONS) for name in self._wrong)
        current = rows_digest(self._row_parts())
        for name in self._outputs(layout.MAPS):
            folder = f"{layout.MAPS}/{name}"
            points = sum(s.rows for s in self.sound_below(f"{folder}/points"))
            self.points[name] = points
            info = self._told_by(f"{folder}/{MAP_JSON}")
            if not damaged and info.get("rows", current) != current:
                self.notes.append(
                    f"the map {name} is of other rows than the run has now: run "
                    "`raylatent map` again"
                )
            told = info.get("points")
            told = told.get("rows", points) if isinstance(told, dict) else points
            whole = not any(name.startswith(f"{folder}/") for name in self._wrong)
            if whole and told != points:
                says = f"it has {told} points, there are {points}"
                self.add(WRONG, f"{folder}/{MAP_JSON}", says)
            below = self.sound_below(f"{folder}/{layout.CLUSTERS}")
            clustered = sum(state.rows for state in below)
            file = f"{folder}/{layout.CLUSTERS_JSON}"
            told = self._told_by(file).get("rows", 0)
            if whole and told != clustered:
                says = f"of {clustered} clustered tiles it tells {told}: run again"
                self.add(INCOMPLETE, file, says)

    def _row_parts(self) -> list[Part]:
        """Parts that have rows, as the digest of a map's rows has them."""
        parts = [
            Part(
                slide=str(slide_of(state.name)),
                unit=unit_of(state.name),
                name=state.name,
                rows=state.rows,
                footer=state.about,
            )
            for state in self.sound_below(layout.ACTIVATIONS)
            if state.rows
        ]
        return sorted(parts, key=lambda part: (part.slide, part.name))

    def _compare_mosaics(self) -> None:
        self.mosaics = self._outputs(layout.MOSAICS)
        for name in self.mosaics:
            drawn = self._told_by(f"{layout.MOSAICS}/{name}/{MOSAIC_JSON}").get("map")
            if isinstance(drawn, dict):  # else of arrays, or drawn in Python
                self._compare_map(drawn, f"mosaic {name}", "mosaic")

    def _compare_pages(self) -> None:
        self.pages = self._outputs(layout.EXPLORER)
        for name in self.pages:
            told = self._told_by(f"{layout.EXPLORER}/{name}/{layout.EXPLORER_JSON}")
            maps = told.get("maps")
            maps = (
                [one for one in maps if isinstance(one, dict)]
                if isinstance(maps, list)
                else []
            )
            if told and not maps:
                self.notes.append(
                    f"the page of the map {name} is not finished: run `raylatent "
                    "explore` again"
                )
            for one in maps:
                self._compare_map(one, f"page of the map {name}", "explore")

    def _compare_map(self, told: dict[str, Any], what: str, verb: str) -> None:
        of_map = self._told_by(f"{layout.MAPS}/{told.get('name')}/{MAP_JSON}")
        if of_map and of_map[DIGEST] != told.get("digest"):
            self.notes.append(
                f"the {what} is of another map than there is now: run `raylatent {verb}` "
                "again"
            )

    def _note_absent_manifests(self) -> None:
        """Say where only seals and counts were checked."""
        wanted = [manifest_of(self.verb)]
        wanted += [manifest_of("map", name) for name in self._outputs(layout.MAPS)]
        wanted += [manifest_of("mosaic", name) for name in self.mosaics]
        wanted += [manifest_of("explore", name) for name in self.pages]
        self.notes += [
            f"there is no {name} that can be read: the files that it would list were "
            "checked by the seals and digests in themselves alone; the same command "
            "again writes it"
            for name in wanted
            if name not in self.manifests
        ]


def _number(value: object) -> int:
    """A count that a file tells, 0 where that is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
