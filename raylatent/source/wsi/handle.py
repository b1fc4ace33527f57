"""A slide held open: levels, and pixels of any part of any level."""

import errno
import os
import threading
from collections import OrderedDict

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, ImageCms

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.slides import LocalSlide, dicom_files
from raylatent.source.wsi.geometry import FileSize, file_size
from raylatent.source.wsi.jpeg_tiff import JpegTiff, probes
from raylatent.storage import reason

READER = f"openslide-{openslide.__library_version__}"
"""What read the pixels, for the fingerprint (Pillow's version is the decoder's)."""

CACHE_BYTES = 32 << 20
BLOCK_PX = 1 << 22  # pixels read at once, 12 MiB
RESAMPLING = Image.Resampling.BILINEAR
"""Of tiles that no level has in their size; Pillow's widen it when they shrink."""
_PROBE_PX = 64
_CELL_PX = 256
# pyramids in TIFF whose levels are the file's pages
_APERIO = "aperio"
_TIFF_VENDORS = frozenset({_APERIO, "generic-tiff"})
# How the system says that reading failed, not the file's content.
_IO_WORDS = tuple(
    map(
        os.strerror,
        (
            errno.EACCES,
            errno.EIO,
            errno.EMFILE,
            errno.ENODEV,
            errno.ENOENT,
            errno.ENOMEM,
            errno.EREMOTEIO,
            errno.ESTALE,
            errno.ETIMEDOUT,
        ),
    )
)
_SERIES = "dicom.SeriesInstanceUID"
_ERRORS = (openslide.OpenSlideError, OSError, ValueError, MemoryError)

Pixels = NDArray[np.uint8]


def detect_format(path: str) -> str | None:
    """What kind of slide OpenSlide takes a file for, None for no slide."""
    try:
        found: str | None = openslide.OpenSlide.detect_format(path)
    except _ERRORS:
        return None
    return found


def longer_side(path: str) -> int:
    """Pixels of a slide's level 0 along its longer side, 0 for no slide."""
    try:
        with openslide.OpenSlide(path) as slide:
            return int(max(slide.dimensions))
    except _ERRORS:
        return 0


class SlideHandle:
    """An open slide. Threads may read from it at once.

    Args:
        local: The slide on this node.
        slide: Its name, for messages.
        icc: Convert colors to sRGB by the slide's profile, where it has one.

    Raises:
        SourceError: It cannot be opened as a slide.
    """

    def __init__(
        self, local: LocalSlide, *, slide: str = "", icc: bool = False
    ) -> None:
        """See the class."""
        self._local = local
        self.path = local.path
        self.slide = slide or self.path.stem
        self._lock = threading.Lock()
        self._cells: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._open_slide = self._opened()
        try:
            self.properties = dict(self._open_slide.properties)
            self.level_dimensions = tuple(self._open_slide.level_dimensions)
            self.downsamples = tuple(map(float, self._open_slide.level_downsamples))
            profile = self._open_slide.color_profile if icc else None
        except _ERRORS as error:
            raise self._no_slide(error) from error
        self._refuse_mixed_series()
        self._to_srgb = None if profile is None else _to_srgb(profile, self.slide)
        self._tiff = self._fast_reader()

    def _opened(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(self.path)
            slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        except _ERRORS as error:
            raise self._no_slide(error) from error
        return slide

    def _no_slide(self, error: BaseException) -> SourceError:
        return SourceError(
            f"slide {self.slide} cannot be opened, {self.path}: {reason(error)}"
        )

    def _refuse_mixed_series(self) -> None:
        """A DICOM folder is one slide, so it must be one series."""
        own = self.properties.get(_SERIES)
        files = dicom_files(self.path.parent) if own is not None else []
        if len(files) < 2:
            return
        try:
            with openslide.OpenSlide(files[-1]) as other:
                series = other.properties.get(_SERIES)
        except _ERRORS:
            return  # a label, or what is no slide at all
        if series != own:
            message = (
                f"{self.path.parent} holds several DICOM series ({own}, {series}): a "
                "folder is one slide, give each a folder of its own"
            )
            raise SourceError(message)

    def _fast_reader(self) -> JpegTiff | None:
        """Plain JPEG tiles are decoded without OpenSlide, if that gives its pixels."""
        if self.properties.get("openslide.vendor") not in _TIFF_VENDORS:
            return None
        sparse = self.properties.get("openslide.vendor") != _APERIO
        tiff = JpegTiff.open(self.path, self.level_dimensions, sparse=sparse)
        if tiff is None:
            return None
        places = list(probes(self.level_dimensions, self.downsamples))
        try:
            same = all(
                np.array_equal(
                    tiff.read(level, x, y, _PROBE_PX, _PROBE_PX),
                    self._by_openslide(level, x, y, _PROBE_PX, _PROBE_PX),
                )
                for level, x, y in places
            )
        except (ContentError, StorageError):
            return None
        return tiff if same else None

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0, in pixels."""
        return self.level_dimensions[0]

    def scales(self, level: int) -> tuple[float, float]:
        """Level-0 pixels of a level's pixel along x and y.

        OpenSlide's downsample is their mean: far down a narrow slide that is pixels off.
        """
        width, height = self.level_dimensions[level]
        return self.dimensions[0] / width, self.dimensions[1] / height

    @property
    def reader(self) -> str:
        """What reads the pixels: `jpeg-tiff` or `openslide`."""
        return "openslide" if self._tiff is None else "jpeg-tiff"

    @property
    def file_size(self) -> FileSize:
        """What the file says of the size of its pixels."""
        return file_size(self.properties)

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        """Left and upper edge of what was scanned, level-0 pixels, where it is told."""
        x, y = (self.properties.get(f"openslide.bounds-{axis}", "") for axis in "xy")
        told = x.isdecimal() and y.isdecimal()
        return (int(x), int(y)) if told else (None, None)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of a level, (height, width, 3) uint8 RGB.

        Beyond the slide they are white, and what is transparent is laid on white.

        Args:
            level: Of the pyramid, 0 the finest.
            x: Left edge in the level's own pixels.
            y: Upper edge likewise.
            width: In the level's pixels.
            height: Likewise.

        Raises:
            ContentError: A part of the file is broken.
            StorageError: The file cannot be read.
        """
        if self._tiff is not None:
            pixels = self._tiff.read(level, x, y, width, height)
        elif self.downsamples[level].is_integer():
            pixels = self._by_openslide(level, x, y, width, height)
        else:
            pixels = self._from_cells(level, x, y, width, height)
        if self._to_srgb is None:
            return pixels
        converted = ImageCms.applyTransform(Image.fromarray(pixels), self._to_srgb)
        inside = np.full_like(pixels, 255)  # beyond the slide it stays white
        columns = slice(max(0, -x), max(0, self.level_dimensions[level][0] - x))
        rows = slice(max(0, -y), max(0, self.level_dimensions[level][1] - y))
        inside[rows, columns] = np.asarray(converted)[rows, columns]
        return inside

    def _from_cells(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> Pixels:
        """Composed of cells at fixed places of the level.

        OpenSlide takes level-0 pixels and shifts what lies between the level's own by
        interpolation, so that a pixel depends on where reading began. In cells it does
        not: each pixel always comes from the same read.
        """
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // _CELL_PX, -(-(y + height) // _CELL_PX)):
            for col in range(x // _CELL_PX, -(-(x + width) // _CELL_PX)):
                top, left = row * _CELL_PX - y, col * _CELL_PX - x
                y0, x0 = max(0, top), max(0, left)
                y1, x1 = min(height, top + _CELL_PX), min(width, left + _CELL_PX)
                cell = self._cell(level, row, col)
                out[y0:y1, x0:x1] = cell[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _cell(self, level: int, row: int, col: int) -> Pixels:
        key = (level, row, col)
        with self._lock:
            cell = self._cells.get(key)
            if cell is not None:
                self._cells.move_to_end(key)
                return cell
        cell = self._by_openslide(
            level, col * _CELL_PX, row * _CELL_PX, _CELL_PX, _CELL_PX
        )
        with self._lock:
            self._cells[key] = cell
            while len(self._cells) * cell.nbytes > CACHE_BYTES:
                self._cells.popitem(last=False)
        return cell

    def _by_openslide(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> Pixels:
        downsample = self.downsamples[level]
        place = (round(x * downsample), round(y * downsample))
        shared = self._open_slide
        try:
            image = shared.read_region(place, level, (width, height))
        except _ERRORS:
            image = self._once_more(shared, place, level, (width, height))
        if image.getchannel("A").getextrema()[0] == 255:  # opaque
            return np.asarray(image.convert("RGB"))
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return np.asarray(white)

    def _once_more(
        self,
        failed: openslide.OpenSlide,
        place: tuple[int, int],
        level: int,
        size: tuple[int, int],
    ) -> Image.Image:
        """Read with a handle of its own: after an error OpenSlide's refuses all reads."""
        try:
            own, fresh = self._opened(), self._opened()
        except SourceError as error:
            message = f"{self.path} cannot be read any more: {reason(error)}"
            raise StorageError(message) from error
        with self._lock:
            if self._open_slide is failed:
                # Dropped, not closed: other threads may be reading from it.
                self._open_slide = fresh
        try:
            return own.read_region(place, level, size)
        except _ERRORS as error:
            text = f"{self.slide} at {place}, level {level}: {reason(error)}"
            if isinstance(error, MemoryError) or any(w in text for w in _IO_WORDS):
                message = f"cannot read slide {text}"
                raise StorageError(message) from error
            message = f"broken region of the slide: {reason(error)}"
            raise ContentError(message, stage="read") from error


def _to_srgb(
    profile: ImageCms.ImageCmsProfile, slide: str
) -> ImageCms.ImageCmsTransform:
    try:
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(profile, srgb, "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, ValueError) as error:
        message = (
            f"slide {slide} has an ICC profile that cannot be used ({reason(error)}): "
            "leave --icc out"
        )
        raise SourceError(message) from error
