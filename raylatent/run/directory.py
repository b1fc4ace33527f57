"""The run directory: what is in it, and what is done.

Processes that are killed leave temporary files, and folders of benchmarks: see
`remove_litter`.
"""

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raylatent import schema
from raylatent.claim import host_id, new_token, process_start
from raylatent.errors import (
    BrokenPartError,
    FingerprintError,
    RunError,
    StorageError,
    VersionError,
)
from raylatent.parts import (
    Part,
    is_part,
    part_name,
    partition_folder,
    read_footer,
    read_part,
    slide_of,
    unit_of,
    write_part,
)
from raylatent.run import layout
from raylatent.run.layout import (
    ACTIVATIONS,
    FINISHED,
    FOLDERS,
    QUARANTINE,
    REMOVED,
    SOURCES,
    TILES,
)
from raylatent.run.settings import (
    CLEARING,
    RUN_JSON,
    TILE_LABELS,
    clearing_text,
    differences,
    fingerprint,
    parse_settings,
    settings_text,
)
from raylatent.storage import ASIDE_SUFFIX, Store, absolute, reason

if TYPE_CHECKING:
    import pyarrow.dataset as ds

logger = logging.getLogger(__name__)

SUFFIX = ".tfrecords"
INDEX_SUFFIX = ".index.npz"
_FOOTER_THREADS = 16
# `bench-` folders are those of benchmarks, `claim.` files those of drivers.
_WITHOUT_A_RUN = re.compile(
    r"\..*|lost\+found/|demo/|bench-.*/|claim\.([0-9a-z]+\.)?json"
)
# `.<token of a driver>-...` or `.pid<process>-...`, see Store.
TEMPORARY = re.compile(
    r"\.(?:(?P<token>[0-9a-f]{12})|pid(?P<pid>\d+))-[0-9a-f]{32}\.aside"
)
_SCRATCH = re.compile(r"bench-[0-9a-f]{12}-(?P<host>[0-9a-f]{8})-pid(?P<pid>\d+)")


class RunDirectory:
    """A handle on one run; opening it reads nothing.

    Args:
        uri: A local folder or URI.
        writer: Marks the temporary files of this writer.
    """

    rows = ACTIVATIONS
    """The folder of its parts."""
    verb = "activations"
    """What makes such a run."""

    def __init__(
        self, uri: str | os.PathLike[str], *, writer: str | None = None
    ) -> None:
        """See the class."""
        self.store = Store(uri, writer=writer)
        self._settings: dict[str, Any] | None = None
        self._names: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> "RunDirectory":
        """An existing run; RunError if there is none at `uri`."""
        run = cls(uri)
        run.settings()
        return run

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.store.uri

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.store.exists(RUN_JSON)

    def settings(self) -> dict[str, Any]:
        """What run.json says."""
        if self._settings is None:
            if not self.exists():
                message = f"{self.uri} is no run directory: it has no {RUN_JSON}"
                raise RunError(message)
            settings = parse_settings(self.store.read(RUN_JSON), self.uri)
            if CLEARING in settings:
                message = (
                    f"{self.uri} was being overwritten when its driver stopped: run "
                    "the same command again"
                )
                raise RunError(message)
            self._settings = settings
        return self._settings

    def begin(
        self,
        fields: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        overwrite: bool,
        also: Callable[[Mapping[str, Any]], list[str]] = lambda _: [],
    ) -> None:
        """Write run.json, or check that the run that is here is the same.

        Args:
            fields: All that changes a number.
            about: What else is worth to be recorded.
            overwrite: Delete the rows of another configuration instead of refusing.
            also: What else differs from a run.json whose fields are the same.

        Raises:
            FingerprintError: The rows here are of another configuration.
        """
        before = self._before(fields)
        if before is not None:
            differing = differences(before, fields, about) or also(before)
            if not differing:
                return
            if not overwrite and CLEARING not in before:
                message = (
                    f"{self.uri} holds a run of another configuration "
                    f"({'; '.join(differing)}): choose another --out, or --overwrite"
                )
                raise FingerprintError(message)
            self._clear()
            self._refuse_others_files()
        self.unlist()
        self.store.write(RUN_JSON, settings_text(fields, about))
        self._settings = None

    def unlist(self) -> None:
        """Delete the manifest, as its files change from here on."""
        self.store.delete(layout.manifest_of(self.verb))

    def refuse_before_work(self) -> None:
        """As `refuse_other_things`, where no part tells that run.json was lost."""
        try:
            self.refuse_other_things()
        except RunError:
            if not self.footers():
                raise

    def _before(self, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """What run.json says; None where it is to be written.

        One that is lost or broken is written anew if all parts are of this
        configuration, as their footers tell; else RunError.
        """
        try:
            if self.exists():
                return parse_settings(self.store.read(RUN_JSON), self.uri)
            self.refuse_other_things()
        except VersionError:
            raise
        except RunError as error:
            parts = self.footers()
            of_parts = {part.footer.get(schema.FOOTER_FINGERPRINT) for part in parts}
            if of_parts != {fingerprint(fields)}:
                raise
            logger.warning("%s is written anew: %s", RUN_JSON, error)
        return None

    def _clear(self) -> None:
        """Delete what a run of another configuration left; run.json says so before."""
        for name in self.store.list(layout.MANIFESTS):
            self.store.delete(name)
        self.store.write(RUN_JSON, clearing_text())
        self._settings = None
        self.store.delete(SOURCES)
        for name in (layout.REPORT, layout.SLIDES_PAGE):
            self.store.delete(name)
        for folder in FOLDERS:
            self.store.delete_folder(folder)

    @property
    def folders(self) -> tuple[str, ...]:
        """Where files of the run are written."""
        return FOLDERS

    def refuse_other_things(self) -> None:
        """Refuse to begin a run where other things are, as in a home or among slides.

        Hidden files and the demo's inputs may be there, and what drivers leave that
        were killed before they wrote run.json.

        Raises:
            RunError: There is no run, but something else.
        """
        if self.exists():
            return
        folders = [name for name in self.store.root_folders() if self._holds(name)]
        there = [*(f"{name}/" for name in folders), *self.store.root_files()]
        others = [name for name in there if not _WITHOUT_A_RUN.fullmatch(name)]
        if others:
            shown = ", ".join(map(repr, others[:3]))
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            message = (
                f"{self.uri} is no run directory, it has no {RUN_JSON} but {shown}{more}: "
                "choose a new or an empty folder for the run"
            )
            raise RunError(message)

    def _holds(self, folder: str) -> bool:
        """Whether a folder is another's, or one of ours that has files."""
        return folder not in FOLDERS or bool(self.store.list(folder))

    def _refuse_others_files(self) -> None:
        """Files of our names, and no run.json: they are not ours to delete or mix."""
        for folder in FOLDERS:
            files = self.store.list(folder)
            if files:
                message = (
                    f"{self.uri} has no {RUN_JSON} but {files[0]}: choose an empty "
                    "folder for the run"
                )
                raise RunError(message)

    def sources(self) -> pa.Table:
        """The plan, as schema.SOURCES; RunError before a run has made one."""
        if not self.store.exists(SOURCES):
            message = f"{self.uri} has no {SOURCES}: run `raylatent activations` first"
            raise RunError(message)
        return read_part(self.store, SOURCES).cast(schema.SOURCES)

    def write_sources(self, table: pa.Table, *, name: str = SOURCES) -> None:
        """Put the plan in place."""
        write_part(self.store, name, table.cast(schema.SOURCES), {})

    def slides(self) -> list[str]:
        """Names of the slides of the plan that have tiles, sorted.

        The plan alone is read: nothing is listed, however many parts there are.
        """
        table = self.sources()
        with_tiles = table.filter(pc.greater(table[schema.N_INDEXED], 0))
        return sorted(with_tiles[schema.SLIDE].to_pylist())

    def _part_names(self) -> dict[str, list[str]]:
        """Parts of each slide, in tile order."""
        if self._names is None:
            names: dict[str, list[str]] = defaultdict(list)
            for name in self.store.list(self.rows):
                if self._is_part(name):
                    names[str(slide_of(name))].append(name)
            self._names = dict(names)
        return self._names

    def refresh(self) -> None:
        """Look again: parts were added or taken away."""
        self._names = None

    def parts(self, slide: str) -> list[str]:
        """Names of a slide's activation parts, in tile order."""
        if self._names is not None:
            return self._names.get(slide, [])
        found = self.store.list(f"{self.rows}/{partition_folder(slide)}")
        return [name for name in found if self._is_part(name)]

    def _is_part(self, name: str) -> bool:
        return is_part(name) and name.rsplit("/", 2)[0] == self.rows

    def footers(
        self,
        slides: Iterable[str] | None = None,
        known: Iterable[Part] = (),
    ) -> list[Part]:
        """Parts that can be read, with their footers; broken ones are left out.

        Args:
            slides: Only of these; None: of all.
            known: Parts whose footers were read before and are the same: on an object
                store each costs a request.
        """
        before = {part.name: part for part in known}
        names = self._part_names()
        wanted = sorted(names) if slides is None else sorted(set(slides) & set(names))
        pairs = [(slide, name) for slide in wanted for name in names[slide]]
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            found = pool.map(
                lambda pair: before.get(pair[1]) or self._footer(*pair), pairs
            )
        return [part for part in found if part is not None]

    def parts_of(self, slide: str) -> list[Part]:
        """One slide's parts that can be read, listed anew."""
        names = self.store.list(f"{self.rows}/{partition_folder(slide)}")
        return [p for n in names if self._is_part(n) and (p := self._footer(slide, n))]

    def _footer(self, slide: str, name: str) -> Part | None:
        try:
            n, footer = read_footer(self.store, name)
        except BrokenPartError:
            return None
        return Part(slide=slide, unit=unit_of(name), name=name, rows=n, footer=footer)

    @property
    def has_tile_labels(self) -> bool:
        """Whether tiles have labels of their own, see schema.LABEL."""
        return bool(self.settings().get("fields", {}).get(TILE_LABELS))

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Stored layers and the shape of one tile's activations of each."""
        stored: dict[str, list[int]] = self.settings()["layers"]
        return {layer: tuple(shape) for layer, shape in stored.items()}

    def read_rows(self, slide: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One slide's rows in tile order, without the partition column."""
        names = self.parts(slide)
        if not names:
            message = f"{self.uri} has no rows of slide {slide!r}"
            raise RunError(message)
        parts = [read_part(self.store, name, columns) for name in names]
        # Footers are of their parts.
        return pa.concat_tables(part.replace_schema_metadata() for part in parts)

    def dataset(self) -> "ds.Dataset":
        """The rows of all slides; see `read`."""
        return open_rows(self.store)

    def set_aside(
        self, slides: Iterable[str], *, back: bool = False, stages: Sequence[str] = ()
    ) -> None:
        """Move slides' parts to `removed/`, or back where nothing took their place."""
        every = (layout.THUMBNAILS, layout.GRIDS, QUARANTINE, self.rows)
        for slide in slides:
            for stage in stages or every:
                folder = f"{stage}/{partition_folder(slide)}"
                origin = f"{REMOVED}/{folder}" if back else folder
                for name in self.store.list(origin):
                    target = name.removeprefix(f"{REMOVED}/")
                    target = target if back else f"{REMOVED}/{name}"
                    if back and self.store.exists(target):
                        self.store.delete(name)
                    else:
                        self.store.move(name, target)
                self.store.delete_folder(origin)
        self.refresh()

    def part(self, slide: str, unit: int) -> str:
        """The name of a unit's part."""
        return part_name(self.rows, slide, unit)

    def grid_part(self, slide: str) -> str:
        """The name of a whole slide's grid."""
        return part_name(layout.GRIDS, slide, 0)

    def thumbnail(self, slide: str) -> str:
        """The name of a whole slide's picture."""
        return f"{layout.THUMBNAILS}/{partition_folder(slide)}/grid.jpg"

    def quarantine_part(self, slide: str, unit: int) -> str:
        """The name of a unit's quarantine part."""
        return part_name(QUARANTINE, slide, unit)


def open_rows(store: Store) -> "ds.Dataset":
    """The rows of all slides, `slide` declared a string.

    Raises:
        RunError: There are none yet.
        StorageError: They cannot be read.
    """
    import pyarrow.dataset as ds  # noqa: PLC0415  (with pandas: slow)

    by_slide = ds.partitioning(pa.schema([(schema.SLIDE, pa.string())]), flavor="hive")
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    try:
        listed = ds.dataset(
            store.path(ACTIVATIONS),
            schema=by_slide.schema,
            filesystem=store.filesystem,
            format=parquet,
            partitioning=by_slide,
        )
        # Not what else lies there, as a part's copy under another name.
        parts = [one for one in listed.get_fragments() if _is_part(one.path)]
        if not parts:
            raise FileNotFoundError  # noqa: TRY301
        columns = parts[0].physical_schema.remove_metadata()
    except FileNotFoundError as error:
        message = f"{store.uri} has no rows yet: run `raylatent activations` first"
        raise RunError(message) from error
    except (OSError, ValueError) as error:
        message = f"the rows of {store.uri} cannot be read: {reason(error)}"
        raise StorageError(message) from error
    # Without metadata: else the first part's footer would stand for all.
    columns = pa.schema([*columns, *by_slide.schema])
    return ds.FileSystemDataset(parts, columns, parquet, store.filesystem)


def _is_part(path: str) -> bool:
    name = "/".join(path.split("/")[-3:])
    return is_part(name) and name.startswith(f"{ACTIVATIONS}/")


def read(run: str | os.PathLike[str]) -> "ds.Dataset":
    """The activations of a run as a pyarrow dataset, `slide` declared a string.

    Without the declaration engines guess: a slide called 007 would become 7.

    Args:
        run: The run directory.

    Raises:
        RunError: There is no run.
    """
    return RunDirectory.open(run).dataset()


class ExtractionDirectory(RunDirectory):
    """A run that extracts tiles: its parts hold encoded tiles until a slide is whole."""

    rows = TILES
    verb = "extract-tiles"

    @property
    def folder(self) -> str:
        """Where the TFRecords are; empty: in the run directory itself."""
        of_tiles: dict[str, Any] = self.settings()["fields"].get("slides") or {}
        folder = str(of_tiles.get("folder", ""))
        return folder if "/" not in folder and folder.strip(".") else ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Where files of the run are written."""
        return (*FOLDERS, self.folder) if self.folder else FOLDERS

    def inside(self, name: str) -> str:
        """The name in the run directory of a file beside the TFRecords."""
        return f"{self.folder}/{name}" if self.folder else name

    def tfrecord(self, slide: str) -> str:
        """The name of a slide's TFRecord in the run directory.

        Raises:
            RunError: No file can be called so.
        """
        if "/" in slide or "\0" in slide:
            message = f"{self.uri} names a slide {slide!r}, which no file can be called"
            raise RunError(message)
        return self.inside(f"{slide}{SUFFIX}")

    def finished(self, slide: str) -> str:
        """The name of the record that a slide's TFRecord is in place."""
        return f"{FINISHED}/{partition_folder(slide)}/record.json"

    def forget(self, slide: str, there: Container[str]) -> None:
        """Delete a slide's TFRecord, the record of it first.

        Args:
            slide: Its name.
            there: Names of the files that are there.
        """
        self.store.delete(self.finished(slide))
        for name in self.files_of(slide):
            if name in there:
                self.store.delete(name)

    def files_of(self, slide: str) -> tuple[str, str]:
        """Index and TFRecord of a slide."""
        tfrecord = self.tfrecord(slide)
        return f"{tfrecord.removesuffix(SUFFIX)}{INDEX_SUFFIX}", tfrecord

    def _clear(self) -> None:
        """Also the TFRecords, which are of another configuration."""
        try:
            there = set(self.store.list(self.folder))
            slides = {slide_of(name) for name in self.store.list(FINISHED)} - {None}
            written = [name for slide in slides for name in self.files_of(str(slide))]
        except RunError:  # it was being cleared: they are deleted as they are redone
            there, written = set(), []
        super()._clear()
        for name in written:
            if name in there:
                self.store.delete(name)


def temporary_files(store: Store, folders: Iterable[str]) -> list[str]:
    """Files at a run's root and in its folders that are, or were, being written."""
    names = [name for name in store.root_files() if name.endswith(ASIDE_SUFFIX)]
    for folder in sorted(set(folders)):
        names += [f"{folder}/{name}" for name in store.child(folder).asides()]
    return names


def remove_litter(run: RunDirectory) -> None:
    """Delete temporary files of drivers that are gone, and folders of benchmarks.

    The claim must be held.

    Only files of our own naming, and only in the run's own folders: a folder below
    may be another's. What a process of this host is still writing, as a mosaic, for
    which no claim is needed, stays.
    """
    for name in temporary_files(run.store, run.folders):
        match = TEMPORARY.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or (match["pid"] and process_start(int(match["pid"]))):
            continue
        run.store.delete(name)
    remove_scratch(run.store)


@contextmanager
def scratch(out: str) -> Iterator[Store]:
    """A folder of this process below a run directory for what is measured, not kept.

    It is gone at the end, with all folders that were made for it and are empty.

    Args:
        out: The run directory, there or not.
    """
    base = Store(out)
    name = f"bench-{new_token()}-{_host()}-pid{os.getpid()}"
    folders = [Path(absolute(out)), *Path(absolute(out)).parents]
    lacking = [path for path in folders if base.is_local and not path.exists()]
    try:
        yield base.child(name)
    finally:
        base.delete_folder(name)
        for folder in lacking:
            if not folder.is_dir() or any(folder.iterdir()):
                break  # others have put something there
            folder.rmdir()


def _host() -> str:
    """This host since its last boot, for a folder's name."""
    return hashlib.sha256(host_id().encode()).hexdigest()[:8]


def remove_scratch(store: Store) -> None:
    """Delete such folders of this host's processes that are gone."""
    for name in store.root_folders():
        match = _SCRATCH.fullmatch(name)
        if match is None or match["host"] != _host():
            continue
        if not process_start(int(match["pid"])):
            store.delete_folder(name)
