"""What runs in the actors: load once, then one unit at a time. No maths here."""

import json
import platform
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray import cloudpickle

from raylatent import schema
from raylatent.engine.items import manifest, undone, unit_footer, unit_from_row
from raylatent.engine.visibility import check_run
from raylatent.errors import ModelError, RaylatentError, StorageError
from raylatent.model.features import Features
from raylatent.model.load import model_digest
from raylatent.model.rows import RowOptions, UnitRows, unit_rows
from raylatent.model.runtime import has_gpu, set_threads, torch_version
from raylatent.model.spec import ModelSpec
from raylatent.parts import write_part
from raylatent.run import RunDirectory
from raylatent.source.units import Source, Unit
from raylatent.storage import file_stat
from raylatent.tiles.decode import DECODER

MODEL_FIELDS = ("model", "torch", "decoder")
"""Fields of the fingerprint that an actor can check by itself."""


@dataclass(frozen=True, kw_only=True)
class ActorOptions:
    """What an actor needs beside the model.

    Attributes:
        run: The run directory.
        token: Of the driver's claim; marks aside files.
        fingerprint: Goes into each part's footer.
        model: What of it tells the model and what runs it, see `MODEL_FIELDS`.
        layers: Names, in column order.
        pooling: See Features.
        batch_size: Tiles in one pass.
        mixed_precision: bfloat16 autocast.
        threads: For the model and for decoding.
        gpu: Whether the actor has one, or a share of one.
        rows: What is stored.
    """

    run: str
    token: str
    fingerprint: str
    model: Mapping[str, str]
    layers: tuple[str, ...]
    pooling: str | None
    batch_size: int
    mixed_precision: bool
    threads: int
    gpu: bool
    rows: RowOptions


@dataclass(frozen=True)
class PackedSpec:
    """A model's spec on its way to the workers, with the driver's import path.

    The spec is pickled apart, since unpickling a module from Python may need that
    path; it is the user's own object, never a file.

    Attributes:
        sys_path: The driver's.
        content: The spec, by cloudpickle.
    """

    sys_path: tuple[str, ...]
    content: bytes

    @classmethod
    def pack(cls, spec: ModelSpec) -> "PackedSpec":
        """On the driver."""
        return cls(tuple(sys.path), _dumps(spec))

    def unpack(self) -> ModelSpec:
        """On a worker: what the driver can import, it can."""
        sys.path += [entry for entry in self.sys_path if entry not in sys.path]
        try:
            spec: ModelSpec = cloudpickle.loads(self.content)
        except ImportError as error:
            message = f"the model cannot be loaded on {platform.node()}: {error}"
            raise ModelError(message) from error
        return spec


class ActivationsActor:
    """Units in, parts on disk, a manifest row out.

    Args:
        spec: Reference to the model's packed spec.
        options: The rest.
    """

    def __init__(
        self, spec: "ray.ObjectRef[PackedSpec]", options: ActorOptions
    ) -> None:
        """Load the model; that it cannot be is said by the first call.

        An actor that dies at its start would be started again and again.
        """
        set_threads(options.threads)
        self._options = options
        self._run = RunDirectory(options.run, writer=options.token)
        self._pool = ThreadPoolExecutor(options.threads)
        self._failure: RaylatentError | None = None
        try:
            check_run(self._run, options.fingerprint)
            self._features = _features(ray.get(spec).unpack(), options)
        except RaylatentError as error:
            self._failure = error

    def __call__(self, item: pa.Table) -> pa.Table:
        """Work on one unit: schema.UNITS in, schema.MANIFEST out."""
        if self._failure is not None:
            raise self._failure
        row = item.to_pylist()[0]
        if row[schema.ERROR] is not None:
            return undone(row[schema.SLIDE], row[schema.UNIT], row[schema.ERROR])
        unit = unit_from_row(row)
        try:
            found = unit_rows(unit, self._features, self._options.rows, self._pool)
            refuse_changed(unit.source)
        except StorageError as error:  # the source's: others may still be read
            return undone(unit.source.slide, unit.unit, str(error))
        started = time.perf_counter()
        self._commit(unit, found)
        return manifest(unit, found, time.perf_counter() - started)

    def _commit(self, unit: Unit, found: UnitRows) -> None:
        """Quarantine first, then the part, which is the unit's commit record."""
        slide = unit.source.slide
        quarantine = self._run.quarantine_part(slide, unit.unit)
        footer = unit_footer(unit, found, self._options.fingerprint)
        if len(found.quarantine):
            write_part(self._run.store, quarantine, found.quarantine, footer)
        else:
            self._run.store.delete(quarantine)  # of what the unit was before
        footer[schema.FOOTER_LAYERS] = json.dumps(
            {name: list(shape) for name, shape in self._features.shapes.items()}
        )
        write_part(
            self._run.store, self._run.part(slide, unit.unit), found.rows, footer
        )


def _dumps(spec: ModelSpec) -> bytes:
    content: bytes = cloudpickle.dumps(spec)  # type: ignore[no-untyped-call]
    return content


def _features(spec: ModelSpec, options: ActorOptions) -> Features:
    if options.gpu and not has_gpu():
        message = (
            f"torch sees no GPU on {platform.node()}, though Ray gave the actor one: "
            "install a torch that can use it, or --num-gpus 0"
        )
        raise ModelError(message)
    features = Features(
        spec,
        layers=options.layers,
        include_preds=options.rows.with_preds,
        pooling=options.pooling,
        batch_size=options.batch_size,
        device="cuda" if options.gpu else "cpu",
        mixed_precision=options.mixed_precision,
    )
    check_model(features, options.model)
    return features


def check_model(features: Features, wanted: Mapping[str, str]) -> None:
    """Refuse a model, or what runs it, that is not the one of the fingerprint.

    Raises:
        ModelError: The message names the node and what differs.
    """
    found = {
        "model": model_digest(features.model),
        "torch": torch_version(),
        "decoder": DECODER,
    }
    for name in MODEL_FIELDS:
        if found[name] != wanted[name]:
            message = (
                f"node {platform.node()} has another {name} than the driver "
                f"({found[name]}, not {wanted[name]}): weights must be the same "
                "each time the model is made, and all nodes need the same packages"
            )
            raise ModelError(message)


def refuse_changed(source: Source) -> None:
    """Refuse what was read if the file is not the one that was planned any more.

    Raises:
        StorageError: It has changed, or is gone.
    """
    if file_stat(source.uri) != source.stat:
        message = f"{source.uri} has changed since it was indexed: run again"
        raise StorageError(message)
