"""Where on their slides tiles lie: each slide's picture with its tiles, and all on a sheet."""

import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raylatent import schema
from raylatent.explorer.pictures import QUALITY, encoded
from raylatent.explorer.tile_squares import TileSquare
from raylatent.mapping.labels import Entries
from raylatent.montage.render import add_caption, add_legend
from raylatent.parts import read_footer
from raylatent.run import RunDirectory

logger = logging.getLogger(__name__)

MOST_CARDS = 100
CARD_PX = 240

_GROUND = "white"
_EMPTY = "#f0f0f0"  # where the run has no picture of a slide
_TEXT_PX = 24  # `add_caption` takes it for the side of cells, and writes smaller
_SOLID_PX = 6
_GAP_PX = 12
_SMALL_PX = 512  # of a page: of 10,000 slides these take some 300 MB
_LEAST_PX = 3  # side of a tile that is still seen


@dataclass(frozen=True, kw_only=True)
class SlidePicture:
    """A slide in small: its JPEG, and its own width and height in level-0 pixels."""

    size: tuple[int, int]
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Card:
    """One slide of a sheet: its name, how many tiles it has, and they on it."""

    slide: str
    n: int
    image: Image.Image


def slide_picture(run: RunDirectory, slide: str) -> SlidePicture | None:
    """The picture that a run has of a slide; None where it has none, as of TFRecords."""
    store, grid, picture = run.store, run.grid_part(slide), run.thumbnail(slide)
    if not store.exists(grid) or not store.exists(picture):
        return None
    made = json.loads(read_footer(store, grid)[1].get(schema.FOOTER_GRID, "{}"))
    size = made.get("geometry", {})
    if not {"width", "height"} <= size.keys():
        return None
    whole = int(size["width"]), int(size["height"])
    return SlidePicture(size=whole, jpeg=store.read(picture))


def small_picture(run: RunDirectory, slide: str, *, plain: bool) -> SlidePicture | None:
    """The same of at most 512 pixels a side, and if `plain` nothing but pixels."""
    found = slide_picture(run, slide)
    if found is None:
        return None
    try:
        with Image.open(io.BytesIO(found.jpeg)) as image:
            if not plain and max(image.size) <= _SMALL_PX:
                return found
            image.thumbnail((_SMALL_PX, _SMALL_PX))
            pixels = np.asarray(image.convert("RGB"))
    except OSError:
        logger.warning("the picture of slide %s cannot be read and is left out", slide)
        return None
    return replace(found, jpeg=encoded(pixels, QUALITY))


def drawn(
    picture: SlidePicture | None,
    places: NDArray[np.int32],
    side_px: int,
    colors: Sequence[str],
) -> Image.Image:
    """A slide with tiles on it, in the middle of a square of `CARD_PX`.

    Args:
        picture: Of the slide; without it the ground is empty, and as large as the tiles
            reach.
        places: Centers of the tiles in level-0 pixels, (n, 2).
        side_px: Of the tiles, in level-0 pixels.
        colors: Of each tile, `#rrggbb`.
    """
    low, size = np.zeros(2), np.ones(2)
    if picture is not None:
        size = np.asarray(picture.size, np.float64)
    elif len(places):
        margin = max(side_px, 1)
        low = places.min(axis=0) - float(margin)
        size = places.max(axis=0) + margin - low
    scale = CARD_PX / float(size.max())
    small = round(size[0] * scale) or 1, round(size[1] * scale) or 1
    if picture is None:
        image = Image.new("RGB", small, _EMPTY)
    else:
        with Image.open(io.BytesIO(picture.jpeg)) as opened:
            image = opened.convert("RGB").resize(small, Image.Resampling.BOX)
    draw = ImageDraw.Draw(image, "RGBA")
    side = max(_LEAST_PX, round(side_px * scale))
    for (x, y), color in zip(((places - low) * scale).tolist(), colors, strict=True):
        left, top = round(x - side / 2), round(y - side / 2)
        box = (left, top, left + side - 1, top + side - 1)
        if side > _SOLID_PX:  # tissue is seen through it
            draw.rectangle(box, fill=f"{color}33", outline=color, width=2)
        else:
            draw.rectangle(box, fill=color)
    whole = Image.new("RGB", (CARD_PX, CARD_PX), _GROUND)
    whole.paste(image, ((CARD_PX - image.width) // 2, (CARD_PX - image.height) // 2))
    return whole


def card_of(
    tiles: pa.Table,
    pictures: Callable[[str], SlidePicture | None],
    squares: Mapping[int, TileSquare],
    colors: Sequence[str],
) -> Card:
    """The card of one slide's tiles, which have `slide`, `source` and a location.

    Args:
        tiles: Of one slide (n,); those without location are counted, and not drawn.
        pictures: Of slides.
        squares: Of the sources, by id.
        colors: Of each tile, `#rrggbb` (n,).
    """
    slide = tiles[schema.SLIDE][0].as_py()
    square = squares.get(tiles[schema.SOURCE][0].as_py(), TileSquare())
    known = pc.is_valid(tiles[schema.LOC_X]).to_numpy()
    located = tiles.filter(pa.array(known))
    x, y = (located[name].to_numpy() for name in (schema.LOC_X, schema.LOC_Y))
    own = [color for color, has in zip(colors, known, strict=True) if has]
    places, side_px = np.stack([x, y], axis=1), square.window_px or 0
    image = drawn(pictures(slide), places, side_px, own)
    return Card(slide=slide, n=tiles.num_rows, image=image)


class Sheet:
    """The slides with most tiles beside one another; no others are held."""

    def __init__(self) -> None:
        self._cards: list[Card] = []
        self.n_tiles = self.n_slides = 0

    def add(self, card: Card) -> None:
        """Take a slide in."""
        self.n_tiles, self.n_slides = self.n_tiles + card.n, self.n_slides + 1
        self._cards.append(card)
        if len(self._cards) > 2 * MOST_CARDS:
            self._cards = self._most()

    def _most(self) -> list[Card]:
        return sorted(self._cards, key=lambda one: (-one.n, one.slide))[:MOST_CARDS]

    def picture(self, legend: Entries) -> Image.Image:
        """The sheet, with what it does not show in words."""
        shown = [
            add_caption(
                one.image,
                _GROUND,
                _TEXT_PX,
                remark=f"{one.slide}: {one.n:,} {'tile' if one.n == 1 else 'tiles'}",
            )[0]
            for one in self._most()
        ]
        across = max(1, math.ceil(math.sqrt(len(shown))))
        width = max((one.width for one in shown), default=CARD_PX) + _GAP_PX
        height = max((one.height for one in shown), default=CARD_PX) + _GAP_PX
        down = max(1, -(-len(shown) // across))
        whole = Image.new("RGB", (across * width, down * height), _GROUND)
        for number, one in enumerate(shown):
            row, col = divmod(number, across)
            whole.paste(one, (col * width + _GAP_PX // 2, row * height + _GAP_PX // 2))
        title = f"Tiles: {self.n_tiles:,}, slides: {self.n_slides:,}"
        if self.n_slides > len(shown):
            title += f"; the {len(shown)} slides with most of them"
        whole = add_legend(whole, legend, _GROUND)
        return add_caption(whole, _GROUND, _TEXT_PX, title=title)[0]


def png(image: Image.Image) -> bytes:
    """A picture as PNG."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
