"""Folders of one tile size, `<tile_px>px_<tile_um>um`, as Slideflow calls them."""

import re
from collections.abc import Sequence

from raylatent.errors import SourceError
from raylatent.source.record import without_ending
from raylatent.storage import Store

_FOLDER = re.compile(r"^(\d+)px_(.+)$")
_FOLDER_UM = re.compile(r"^\d+px_(\d+(?:\.\d+)?)um$", re.IGNORECASE)


def size_folders(folder: str) -> list[str]:
    """Names of the folders of tile sizes that have TFRecords below them."""
    return sorted(
        {
            part
            for name in Store(folder).list()
            if without_ending(name) is not None
            for part in name.split("/")[:-1]
            if _FOLDER.match(part)
        }
    )


def choose_size(
    sizes: Sequence[str],
    tile_px: int | None,
    tile_um: float | str | None,
    *,
    where: str,
) -> str | None:
    """The folder of one tile size, None where no folder is named so.

    Raises:
        SourceError: None fits, or several do.
    """
    if not sizes:
        return None
    um = f"{tile_um:g}um" if isinstance(tile_um, int | float) else tile_um
    fitting = [
        size
        for size in sizes
        if (tile_px is None or size.startswith(f"{tile_px}px_"))
        and (um is None or size.lower().endswith(f"px_{um}".lower()))
    ]
    if len(fitting) != 1:
        asked = [f"tile_px={tile_px}"] * (tile_px is not None)
        asked += [f"tile_um={tile_um!r}"] * (um is not None)
        message = (
            f"{where} has {'several sizes' if fitting else 'no size'} of tiles for "
            f"{', '.join(asked) or 'no tile_px and tile_um'}: it has {', '.join(sizes)}"
        )
        raise SourceError(message)
    return fitting[0]


def tile_um_of(uri: str) -> float | None:
    """Side of the tiles in µm as a folder above the file tells, None where none does.

    >>> tile_um_of("/data/tfrecords/299px_302um/s.tfrecords"), tile_um_of("/data/s.tfrecords")
    (302.0, None)
    """
    for folder in reversed(uri.split("/")[:-1]):
        if found := _FOLDER_UM.match(folder):
            return float(found[1])
    return None
