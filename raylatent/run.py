"""The run directory: its layout, what is in it, and what is done.

    run.json                 configuration, fingerprint, versions; written first
    sources.parquet          the plan: one row a slide
    activations/slide=<name>/<unit>.parquet
    quarantine/slide=<name>/<unit>.parquet
    removed/                 rows of slides that a later run no longer names
    report.json, maps/<name>/, mosaics/<name>/
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.errors import FingerprintError, RunError, StorageError
from raylatent.parts import (
    part_name,
    partition_folder,
    read_footer,
    read_part,
    slide_of,
    write_part,
)
from raylatent.storage import Store

RUN_JSON = "run.json"
SOURCES = "sources.parquet"
REPORT = "report.json"
ACTIVATIONS = "activations"
QUARANTINE = "quarantine"
REMOVED = "removed"
MAPS = "maps"
MOSAICS = "mosaics"
_FOOTER_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """An activations part, as its footer tells.

    Attributes:
        slide: Its slide.
        unit: Its number in the slide.
        name: Its name below the run directory.
        rows: Number of rows.
        footer: Key-value metadata, keys as in schema.FOOTER_*.
    """

    slide: str
    unit: int
    name: str
    rows: int
    footer: Mapping[str, str]

    @property
    def quarantined(self) -> int:
        """Tiles of the unit that are quarantined."""
        return int(self.footer.get(schema.FOOTER_QUARANTINED, "0"))


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A digest of all that changes a number.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RunDirectory:
    """A handle on one run; opening it reads nothing.

    Args:
        uri: A local folder or URI.
        writer: Marks the aside files of this writer.
    """

    def __init__(self, uri: str, *, writer: str | None = None) -> None:
        """See the class."""
        self.store = Store(uri, writer=writer)
        self._settings: dict[str, Any] | None = None
        self._names: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, uri: str) -> "RunDirectory":
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
            try:
                self._settings = dict(json.loads(self.store.read(RUN_JSON)))
            except ValueError as error:
                message = f"{self.uri}/{RUN_JSON} is no JSON ({error})"
                raise RunError(message) from error
        return self._settings

    def begin(
        self, fields: Mapping[str, Any], about: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        """Write run.json, or check that the run that is here is the same.

        Args:
            fields: All that changes a number.
            about: What else is worth to be recorded.
            overwrite: Delete the rows of another configuration instead of refusing.

        Raises:
            FingerprintError: The rows here are of another configuration.
        """
        if self.exists():
            differing = self._differing(fields)
            if not differing:
                return
            if not overwrite:
                message = (
                    f"{self.uri} holds a run of another configuration "
                    f"({'; '.join(differing)}): choose another --out, or --overwrite"
                )
                raise FingerprintError(message)
        self._clear()
        settings = {
            "schema_version": schema.SCHEMA_VERSION,
            "fingerprint": fingerprint(fields),
            "fields": dict(fields),
            **about,
        }
        self.store.write(RUN_JSON, json.dumps(settings, indent=1).encode())
        self._settings = None

    def _clear(self) -> None:
        """Delete what a run of another configuration left, run.json first."""
        self.store.delete(RUN_JSON)
        self.store.delete(SOURCES)
        self.store.delete(REPORT)
        for folder in (ACTIVATIONS, QUARANTINE, REMOVED, MAPS, MOSAICS):
            self.store.delete_folder(folder)

    def _differing(self, fields: Mapping[str, Any]) -> list[str]:
        settings = self.settings()
        if settings.get("fingerprint") == fingerprint(fields):
            return []
        old = settings.get("fields", {})
        names = sorted(set(old) | set(fields))
        changed = [
            f"{name} was {_short(old.get(name))}, now {_short(fields.get(name))}"
            for name in names
            if old.get(name) != fields.get(name)
        ]
        return changed or ["its fingerprint differs"]

    def sources(self) -> pa.Table:
        """The plan, as schema.SOURCES; RunError before a run has made one."""
        if not self.store.exists(SOURCES):
            message = f"{self.uri} has no {SOURCES}: run `raylatent activations` first"
            raise RunError(message)
        table = pq.read_table(pa.BufferReader(self.store.read(SOURCES)))
        return table.cast(schema.SOURCES)

    def write_sources(self, table: pa.Table, *, name: str = SOURCES) -> None:
        """Put the plan in place."""
        write_part(self.store, name, table.cast(schema.SOURCES), {})

    def slides(self) -> list[str]:
        """Names of the slides of the plan that have rows, sorted."""
        names = self._part_names()
        return sorted(set(self.sources()[schema.SLIDE].to_pylist()) & set(names))

    def _part_names(self) -> dict[str, list[str]]:
        """Parts of each slide, in tile order."""
        if self._names is None:
            names: dict[str, list[str]] = defaultdict(list)
            for name in self.store.list(ACTIVATIONS):
                slide = slide_of(name)
                if slide is not None and name.endswith(".parquet"):
                    names[slide].append(name)
            self._names = dict(names)
        return self._names

    def refresh(self) -> None:
        """Look again: parts were added or taken away."""
        self._names = None

    def parts(self, slide: str) -> list[str]:
        """Names of a slide's activation parts, in tile order."""
        return self._part_names().get(slide, [])

    def footers(self, slides: Iterable[str] | None = None) -> list[Part]:
        """Parts that can be read, with their footers; broken ones are left out."""
        names = self._part_names()
        wanted = sorted(names) if slides is None else sorted(set(slides) & set(names))
        pairs = [(slide, name) for slide in wanted for name in names[slide]]
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            found = pool.map(lambda pair: self._footer(*pair), pairs)
        return [part for part in found if part is not None]

    def _footer(self, slide: str, name: str) -> Part | None:
        stem = name.rsplit("/", 1)[-1].removesuffix(".parquet")
        if not stem.isdigit():
            return None
        try:
            rows, footer = read_footer(self.store, name)
        except (StorageError, OSError, pa.ArrowException):
            return None
        return Part(slide=slide, unit=int(stem), name=name, rows=rows, footer=footer)

    def layers(self) -> dict[str, tuple[int, ...]]:
        """Stored layers and the shape of one tile's activations of each."""
        stored: dict[str, list[int]] = self.settings()["layers"]
        return {layer: tuple(shape) for layer, shape in stored.items()}

    def read_rows(
        self, slide: str, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """One slide's rows in tile order, without the partition column."""
        names = self.parts(slide)
        if not names:
            message = f"{self.uri} has no rows of slide {slide!r}"
            raise RunError(message)
        return pa.concat_tables(read_part(self.store, name, columns) for name in names)

    def dataset(self) -> ds.Dataset:
        """The rows of all slides; see `read`."""
        partitioning = ds.partitioning(
            pa.schema([(schema.SLIDE, pa.string())]), flavor="hive"
        )
        return ds.dataset(
            self.store.path(ACTIVATIONS),
            filesystem=self.store.filesystem,
            format="parquet",
            partitioning=partitioning,
        )

    def set_aside(self, slides: Iterable[str], *, back: bool = False) -> None:
        """Move slides' parts to `removed/`, or back where nothing took their place."""
        for slide in slides:
            for stage in (QUARANTINE, ACTIVATIONS):
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
        """The name of a unit's activations part."""
        return part_name(ACTIVATIONS, slide, unit)

    def quarantine_part(self, slide: str, unit: int) -> str:
        """The name of a unit's quarantine part."""
        return part_name(QUARANTINE, slide, unit)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read(run: str) -> ds.Dataset:
    """The activations of a run as a pyarrow dataset, `slide` declared a string.

    Without the declaration engines guess: a slide called 007 would become 7.

    Args:
        run: The run directory.

    Raises:
        RunError: There is no run.
    """
    return RunDirectory.open(run).dataset()
