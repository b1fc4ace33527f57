"""The tf.train.Example in a record: a tile's picture, slide and location."""

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf.message import DecodeError

from raylatent.errors import ContentError, SourceError
from raylatent.storage import reason

_SHOWN = 40  # characters of a name in a message
_INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class TileRecord:
    """What a record says of a tile.

    Attributes:
        image_raw: The encoded picture, JPEG or PNG.
        slide: Its slide's name, None where the record has none.
        loc_x: Center of the tile in level-0 pixels, None where not recorded.
        loc_y: Likewise.
    """

    image_raw: bytes
    slide: str | None = None
    loc_x: int | None = None
    loc_y: int | None = None


@cache
def example_message() -> ModuleType:
    """The protobuf messages that the `tfrecord` package ships.

    Loaded without the package itself, which would import torch in every reader.
    """
    spec = importlib.util.find_spec("tfrecord")
    if spec is None or spec.origin is None:
        message = "the package tfrecord is not installed: pip install tfrecord"
        raise SourceError(message)
    name = "raylatent_tfrecord_example_pb2"
    path = Path(spec.origin).with_name("example_pb2.py")
    file_spec = importlib.util.spec_from_file_location(name, path)
    if file_spec is None or file_spec.loader is None:
        message = f"the package tfrecord lacks {path.name}: install it again"
        raise SourceError(message)
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[name] = module
    file_spec.loader.exec_module(module)
    return module


def parse_example(payload: bytes | memoryview) -> TileRecord:
    """What a record's payload (a serialized tf.train.Example) says of a tile.

    Raises:
        ContentError: It is no Example, has no `image_raw`, or is nowhere on a slide.
    """
    try:
        feature = example_message().Example.FromString(bytes(payload)).features.feature
    except DecodeError as error:
        message = f"not a tf.train.Example: {reason(error)}"
        raise ContentError(message, stage="parse") from error
    image = feature["image_raw"].bytes_list.value if "image_raw" in feature else ()
    if not image:
        names = ", ".join(_shown(name) for name in sorted(feature)[:8]) or "nothing"
        message = f"the record has no image_raw (it has {names})"
        raise ContentError(message, stage="parse")
    slide = feature["slide"].bytes_list.value if "slide" in feature else ()
    return TileRecord(
        image_raw=image[0],
        slide=slide[0].decode("utf-8", "replace") if slide else None,
        loc_x=_location(feature, "loc_x"),
        loc_y=_location(feature, "loc_y"),
    )


def _shown(name: str) -> str:
    """The beginning of a name that a file gives, without what a terminal obeys."""
    return ascii(name[:_SHOWN])[1:-1] + ("..." if len(name) > _SHOWN else "")


def _location(feature: Any, name: str) -> int | None:  # noqa: ANN401
    values = feature[name].int64_list.value if name in feature else ()
    if not values:
        return None
    location = int(values[0])
    if location not in _INT32:
        message = f"{name} has more than 32 bits, which no slide has"
        raise ContentError(message, stage="parse")
    return location
