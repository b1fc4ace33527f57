"""What runs in the actors: load once, then one unit at a time. No maths here."""

import json
import platform
import sys
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import cloudpickle

from raylatent import schema
from raylatent.engine.unit_actor import UnitActor, UnitResult, WorkOptions, check_reader
from raylatent.errors import ModelError
from raylatent.model.devices import (
    feed_gpu,
    has_gpu,
    lane_of,
    set_threads,
    torch_version,
)
from raylatent.model.features import Features
from raylatent.model.identity import Copy
from raylatent.model.load import declare_missing_operators
from raylatent.model.rows import RowOptions, unit_rows
from raylatent.model.sample_tiles import Outputs, other_outputs
from raylatent.model.spec import ModelSpec, failing_attribute
from raylatent.run import entry_differences, shortened
from raylatent.source.protocol import Unit
from raylatent.storage import reason
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.tile import DECODER


@dataclass(frozen=True, kw_only=True)
class DriverModel:
    """What an actor checks its own model, and what runs it, against.

    Attributes:
        copy: What the model is.
        outputs: What it gave for the two sample tiles.
        torch: Version.
        decoder: Of JPEGs.
    """

    copy: Copy
    outputs: Outputs
    torch: str
    decoder: str

    @classmethod
    def of(cls, features: Features) -> "DriverModel":
        """On the driver."""
        return cls(
            copy=features.copy(),
            outputs=features.sample_outputs,
            torch=torch_version(),
            decoder=DECODER,
        )


@dataclass(frozen=True, kw_only=True)
class ActorOptions(WorkOptions):
    """What an actor needs beside the model.

    Attributes:
        model: What tells the model and what runs it.
        layers: Names, in column order.
        pooling: See Features.
        batch_size: Tiles in one pass.
        mixed_precision: bfloat16 autocast.
        compiled: By torch.compile.
        rows: What is stored.
    """

    model: DriverModel
    layers: tuple[str, ...]
    pooling: str | None
    batch_size: int
    mixed_precision: bool
    compiled: bool
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
        declare_missing_operators()
        try:
            spec: ModelSpec = cloudpickle.loads(self.content)
        except Exception as error:  # what the model's own code raises
            message = (
                f"the model cannot be loaded on {platform.node()}: {reason(error)}"
            )
            raise ModelError(message) from error
        return spec


class ActivationsActor(UnitActor):
    """Units to activations.

    Args:
        spec: Reference to the model's packed spec.
        options: The rest.
        queue: Of units of whole slides.
    """

    def __init__(
        self,
        spec: "ray.ObjectRef[PackedSpec]",
        options: ActorOptions,
        queue: Any,  # noqa: ANN401
    ) -> None:
        """Load the model."""
        self._spec, self._options = spec, options
        super().__init__(options, queue)

    def prepare(self) -> None:
        """Load the model, and check it."""
        n_threads = self._threads.count
        if self._options.num_gpus:
            feed_gpu(n_threads)
            self._threads = replace(self._threads, decoders=Decoders(n_threads))
        else:
            set_threads(n_threads)
        self._lane = lane_of(load_features(ray.get(self._spec).unpack(), self._options))
        check_reader(self._options.reader)
        if self._options.compiled or self._options.num_gpus:
            # Else minutes of compiling would count as the first unit's `forward`.
            self._lane.warm_up(with_preds=self._options.rows.with_preds)

    def work(self, unit: Unit) -> UnitResult:
        """Activations of a unit."""
        found = unit_rows(
            unit, self._lane, self._options.rows, self._threads, self._slides
        )
        features = self._lane.features
        shapes = {name: list(shape) for name, shape in features.shapes.items()}
        footer = {schema.FOOTER_LAYERS: json.dumps(shapes)}
        at_once = features.passed_at_once
        if at_once < features.batch_size:  # for want of memory on a GPU
            footer[schema.FOOTER_BATCH] = str(at_once)
            found.counts["smaller_batch"] = len(unit)
        return UnitResult(
            rows=found.rows,
            quarantine=found.quarantine,
            footer=footer,
            counts=found.counts,
            seconds=found.seconds,
            cpu=found.cpu,
            constants=found.constants,
        )


def _dumps(spec: ModelSpec) -> bytes:
    try:
        content: bytes = cloudpickle.dumps(spec)  # type: ignore[no-untyped-call]
    except Exception as error:  # what an attribute raises that cannot be pickled
        held = (
            None
            if spec.module is None
            else failing_attribute(spec.module, _not_pickled)
        )
        message = (
            f"{spec.name} cannot be sent to the workers, since it cannot be pickled: "
            f"{held or reason(error)}; take this out of the module, or give a model "
            "folder, whose factory makes it anew in each worker"
        )
        raise ModelError(message) from error
    return content


def _not_pickled(value: object) -> str | None:
    try:
        cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001  (it may raise anything)
        return reason(error)
    return None


def load_features(spec: ModelSpec, options: ActorOptions) -> Features:
    """The model as an actor has it, on its device.

    Raises:
        ModelError: It is not that of the fingerprint, or there is no GPU to see.
    """
    if options.num_gpus and not has_gpu():
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
        device="cuda" if options.num_gpus else "cpu",
        mixed_precision=options.mixed_precision,
        check_rows=False,  # the driver did
    )
    check_model(features, options.model)
    if options.compiled:
        features.compile()
    return features


def check_model(features: Features, wanted: DriverModel) -> None:
    """Refuse a model, or what runs it, that is not the driver's.

    Raises:
        ModelError: The message names the node and what differs.
    """
    for name, found in (("torch", torch_version()), ("decoder", DECODER)):
        if found != getattr(wanted, name):
            message = (
                f"node {platform.node()} has another {name} than the driver "
                f"({found}, not {getattr(wanted, name)}): all nodes need the same "
                "packages"
            )
            raise ModelError(message)
    copy = features.copy()
    differing = entry_differences(
        wanted.copy.common(copy).entries(), copy.common(wanted.copy).entries()
    )
    if not differing:
        differing = other_outputs(wanted.outputs, features.sample_outputs)
    if differing:
        message = (
            f"node {platform.node()} has another model than the driver "
            f"({shortened(differing)}): weights and attributes must be the same each "
            "time the model is made, and all nodes need the same packages"
        )
        raise ModelError(message)
