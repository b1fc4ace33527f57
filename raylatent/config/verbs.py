"""One configuration class for each verb."""

import re
from dataclasses import dataclass

from raylatent.config.options import (
    PatientConfig,
    above_zero,
    at_least,
    between,
    flag,
    names,
    number_from,
    option,
    pixel_size,
    plain_name,
    share,
)
from raylatent.errors import ConfigError

UNIT_TILES = 2048
"""Tiles of a unit, where the user does not say and their rows are small enough."""
QCS = ("otsu", "blur", "both", "none")
POOLINGS = ("none", "avg", "max", "cls")
DTYPES = ("float32", "float16")
MIN_BATCH = 16
"""Smaller batches change bits with the number of threads (measured, oneDNN)."""
IMAGE_FORMATS = ("jpg", "png")
VECTORS = ("none", "pdf", "svg")
SELECTS = ("nearest", "medoid", "first")
NUM_TILES_X = 50
"""Columns of a mosaic, as Slideflow's."""
GRIDS = ("square", "slideflow")
LAYOUTS = ("plain", "compact", "even")
_LONGEST_EACH = 120  # bytes of --mosaic, which a label follows
PLACEMENTS = ("rows", "umap-learn")
TILE_LABELS = ("region", "cluster")
"""Labels that were stored beside a map, which --label names without --annotations."""


@dataclass(frozen=True, kw_only=True)
class WorkConfig(PatientConfig):
    """Units of work, spread over actors."""

    actors: str = option(
        "", "actors N, or MIN:MAX (default: by the cluster's size)", metavar="N"
    )
    unit_tiles: int | None = option(
        None,
        f"tiles in one unit of work (default {UNIT_TILES}, fewer where their rows would "
        "take more than 256 MiB)",
        metavar="N",
    )
    max_bad_fraction: float = option(
        0.01, "a slide with more bad tiles, and more than 10, fails", metavar="F"
    )
    recheck: bool | None = option(
        None,
        "read the parts that are kept and check every byte (default), not their "
        "footers only",
        no="--no-recheck",
    )
    overwrite: bool = flag("delete the rows of another configuration in RUN")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.unit_tiles is not None:
            at_least("--unit-tiles", self.unit_tiles, 1)
        share("--max-bad-fraction", self.max_bad_fraction)
        self.actor_range()

    def actor_range(self) -> tuple[int, int] | None:
        """Smallest and largest number of actors, None for the default.

        >>> WorkConfig(out="run", actors="1:4").actor_range()
        (1, 4)
        """
        if not self.actors:
            return None
        low, colon, high = self.actors.partition(":")
        try:
            smallest, largest = int(low), int(high if colon else low)
        except ValueError:
            smallest, largest = 0, 0
        if not 1 <= smallest <= largest:
            message = f"--actors is {self.actors!r}, not N or MIN:MAX with MIN from 1"
            raise ConfigError(message)
        return smallest, largest


@dataclass(frozen=True, kw_only=True)
class SlidesConfig(WorkConfig):
    """Whole slides, and the tiles to cut them into."""

    slides: tuple[str, ...] = option(
        (),
        "whole slides, folders of them or URIs (DICOM: the slide's folder)",
        metavar="PATH",
        many=True,
    )
    tile_px: int | None = option(
        None,
        "with --slides: side of a tile in pixels (default: the model's, if any)",
        metavar="N",
    )
    tile_um: str = option(
        "",
        "with --slides: side of a tile in micrometers, or a magnification as 10x",
        metavar="UM",
    )
    stride_div: float = option(
        1.0, "tiles are tile_um / F apart: 2 for half overlaps", metavar="F"
    )
    mpp: float | None = option(
        None,
        "micrometers a pixel of slides that do not say (a column mpp of --annotations "
        "is that of one slide, whatever its file says)",
        metavar="F",
    )
    allow_upsampling: bool = flag("take slides that are coarser than the tiles as well")
    qc: str = option(
        "otsu",
        "which tiles are left out: background, out of focus, both; none keeps all",
        choices=QCS,
    )
    grayspace_fraction: float = option(
        0.6, "tiles with more gray pixels than this are left out, 1: off", metavar="F"
    )
    whitespace_fraction: float = option(
        1.0, "tiles with more white pixels than this are left out, 1: off", metavar="F"
    )
    icc: bool = flag("convert colors to sRGB by the slides' ICC profiles")
    annotations: str = option(
        "",
        "CSV with a `slide` column, labels, and `mpp`, which overrules a slide's own",
        metavar="CSV",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        at_least("--tile-px", self.tile_px, 1)
        above_zero("--stride-div", self.stride_div)
        if self.mpp is not None:
            pixel_size("--mpp", self.mpp)
        share("--grayspace-fraction", self.grayspace_fraction)
        share("--whitespace-fraction", self.whitespace_fraction)
        if self.slides and not self.tile_um:
            message = (
                "--slides needs --tile-um: a tile's side in micrometers, as 302, or a "
                "magnification, as 10x"
            )
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ActivationsConfig(SlidesConfig):
    """Tiles of slides, TFRecords or pictures, and a model, to Parquet."""

    tfrecords: tuple[str, ...] = option(
        (), "TFRecord files, folders or URIs", metavar="PATH", many=True
    )
    tiles: tuple[str, ...] = option(
        (),
        "folders of pictures (PNG, JPEG, TIFF), each a tile, or URIs; a slide is the "
        "first folder below",
        metavar="FOLDER",
        many=True,
    )
    tiles_pattern: str = option(
        "",
        "with --tiles: a regular expression that finds (?P<slide>...), (?P<label>...), "
        "(?P<x>...) and (?P<y>...), or some of them, in a picture's path below FOLDER",
        metavar="REGEX",
    )
    model: str = option(
        "", "model folder, timm:NAME or hf-hub:REPO@REVISION", metavar="SPEC"
    )
    layers: tuple[str, ...] = option(
        ("postconv",), "layers by name in the model", metavar="NAME", many=True
    )
    pooling: str | None = option(
        None,
        "of maps larger than 1x1 and of tokens (default: none up to 8,192 numbers a "
        "tile, beyond you are asked)",
        choices=POOLINGS,
    )
    include_preds: bool | None = option(
        None, "store predictions (default: if the model has classes)", no="--no-preds"
    )
    dtype: str = option("float32", "of the stored activations", choices=DTYPES)
    num_gpus: float | None = option(
        None, "GPUs for each actor (default: 1 if the cluster has any)", metavar="F"
    )
    batch_size: int = option(32, "tiles in one pass of the model", metavar="N")
    mixed_precision: bool | None = option(
        None,
        "bfloat16 autocast: faster on GPUs, less exact (default: no)",
        no="--no-mixed-precision",
    )
    compile: bool = flag(
        "torch.compile of the model for one shape: faster on GPUs, other last digits"
    )
    resize: bool | None = option(
        None,
        "tiles of another side than the model's are resized (default), or refused",
        no="--no-resize",
    )
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        at_least("--batch-size", self.batch_size, MIN_BATCH)
        if self.num_gpus is not None:
            number_from("--num-gpus", self.num_gpus, 0)
        names("--layers", self.layers)
        if self.tiles_pattern and not self.tiles:
            message = "--tiles-pattern needs --tiles FOLDER..."
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ExtractTilesConfig(SlidesConfig):
    """Whole slides to TFRecords, as Slideflow writes them."""

    img_format: str = option("jpg", "of the tiles in TFRecords", choices=IMAGE_FORMATS)
    jpeg_quality: int = option(95, "of jpg tiles, 1 to 100", metavar="N")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        between("--jpeg-quality", self.jpeg_quality, 1, 100)
        if self.slides and self.tile_px is None:
            message = "extract-tiles needs --tile-px: a tile's side in pixels"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class NamedMapConfig(PatientConfig):
    """A map of a run, and the labels of its slides."""

    map: str = option("default", "name below maps/", metavar="NAME")
    annotations: str = option("", "CSV with a `slide` column and labels", metavar="CSV")
    label: str = option(
        "",
        "column of the annotations to color by; of mosaics and pages also region or "
        "cluster, which `label` and `cluster` stored",
        metavar="COLUMN",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        plain_name("--map", self.map)
        if self.label and not self.annotations and self.stored_labels() is None:
            message = (
                f"--label {self.label} needs --annotations CSV (labels that "
                "--tiles-pattern finds color maps and mosaics without --label)"
            )
            raise ConfigError(message)

    def stored_labels(self) -> str | None:
        """Which labels that are beside the map are meant; empty: any; None: none of them."""
        if not self.label:
            return ""
        new = isinstance(self, MapConfig)  # it has none
        return self.label if self.label in TILE_LABELS and not new else None


@dataclass(frozen=True, kw_only=True)
class MapConfig(NamedMapConfig):
    """Stored activations to a map of every row."""

    layer: str = option(
        "", "the layer to map (default: the only or first one)", metavar="NAME"
    )
    sample: int = option(20_000, "rows that UMAP is fitted on", metavar="N")
    seed: int = option(42, "of the sample, the fit and ties", metavar="N")
    n_neighbors: int = option(50, "UMAP's n_neighbors, at least 2", metavar="N")
    min_dist: float = option(0.1, "UMAP's min_dist, from 0", metavar="F")
    metric: str = option("cosine", "UMAP's metric", metavar="NAME")
    umap: tuple[str, ...] = option(
        (), "any other UMAP argument, as KEY=VALUE", metavar="KEY=VALUE", many=True
    )
    placement: str = option(
        "rows",
        "rows: each by itself; umap-learn: by its own transform",
        choices=PLACEMENTS,
    )
    vector: str = option("none", "also write its pictures as these", choices=VECTORS)

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        at_least("--sample", self.sample, 1)
        at_least("--n-neighbors", self.n_neighbors, 2)
        between("--seed", self.seed, 0, (1 << 32) - 1)
        number_from("--min-dist", self.min_dist, 0)
        for pair in self.umap:
            name, equals, _ = pair.partition("=")
            if not name or not equals:
                message = f"--umap is {pair!r}, not KEY=VALUE"
                raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class MosaicConfig(NamedMapConfig):
    """A map to a mosaic of tiles."""

    mosaic: str = option("default", "name below mosaics/", metavar="NAME")
    num_tiles_x: int | None = option(
        None,
        f"cells across the map, for even the most of them (default: {NUM_TILES_X}, "
        "fewer for few tiles)",
        metavar="N",
    )
    layout: str = option(
        "plain",
        "cells as on the map; islands of them moved together; or a sample of tiles "
        "in a full rectangle, neighbors beside each other",
        choices=LAYOUTS,
    )
    each: str = option(
        "none",
        "also a mosaic of the tiles of each label, by itself",
        choices=("none", "label"),
    )
    select: str = option("nearest", "which tile of a cell is drawn", choices=SELECTS)
    grid: str = option("square", "the grid of cells", choices=GRIDS)
    cell_px: int = option(100, "side of a cell in pixels", metavar="N")
    gap_px: int = option(0, "pixels between the cells of a mosaic", metavar="N")
    title: str = option("", "written above the mosaic", metavar="TEXT")
    scale_bar: bool = flag("a scale bar below the mosaic, where tile_um is known")
    pdf: bool = flag("also write the mosaic as mosaic.pdf")
    source_root: str = option(
        "",
        "where the TFRecords, slides or pictures are now, if they were moved",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        at_least("--num-tiles-x", self.num_tiles_x, 1)
        at_least("--cell-px", self.cell_px, 1)
        at_least("--gap-px", self.gap_px, 0)
        plain_name("--mosaic", self.mosaic)
        if self.layout == "even" and self.grid == "slideflow":
            message = "--layout even has cells of its own: leave out --grid slideflow"
            raise ConfigError(message)
        if self.each != "none" and len(self.mosaic.encode()) > _LONGEST_EACH:
            message = (
                f"with --each a name of --mosaic has at most {_LONGEST_EACH} bytes"
            )
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class PageConfig(NamedMapConfig):
    """How much of a map its page holds."""

    max_size: str = option(
        "2GB", "of the page and its pictures, as 500MB or 2GB", metavar="SIZE"
    )
    explorer_cell_px: int = option(
        96, "side of a cell of the page in pixels", metavar="N"
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        # A block of 8 x 8 cells is one JPEG.
        between("--explorer-cell-px", self.explorer_cell_px, 16, 1024)
        self.max_bytes()

    def max_bytes(self) -> int:
        """The bytes of `--max-size`.

        >>> PageConfig(out="run", max_size="500MB").max_bytes()
        500000000
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", self.max_size.upper())
        if found is None or not float(found[1]):
            message = f"--max-size is {self.max_size!r}, not a size as 500MB or 2GB"
            raise ConfigError(message)
        return int(float(found[1]) * 1000 ** "_KMGT".index(found[2] or "_"))


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(PageConfig):
    """A map as a page that one can walk in: it opens by double click."""

    run: str = option(
        "", "the run directory", metavar="RUN", positional=True, nargs="?"
    )
    out: str = option(
        "",
        "the folder of the page (default: RUN/explorer/<map>, where RUN is local)",
        metavar="DIR",
    )
    pseudonymise: bool = flag(
        "call slides by random names, which RUN/pseudonyms.csv translates: in the folder "
        "no byte has a slide's name, nor a column that --keep-columns does not name"
    )
    keep_columns: tuple[str, ...] = option(
        (),
        "columns of the annotations that the page has (default: all, none with "
        "--pseudonymise)",
        metavar="NAME",
        many=True,
    )
    source_root: str = option(
        "",
        "where the TFRecords, slides or pictures are now, if they were moved",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if not self.run:
            message = "explore takes one run directory: raylatent explore RUN"
            raise ConfigError(message)
        if self.keep_columns and not self.annotations:
            message = "--keep-columns needs --annotations CSV, which has the columns"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class AtlasConfig(ActivationsConfig, MapConfig, MosaicConfig, PageConfig):
    """Everything: activations, map, mosaic, and a page to walk in."""

    explorer: bool | None = option(
        None,
        "write the page RUN/explorer/<map>/index.html (default, where RUN is local)",
        no="--no-explorer",
    )
    demo: bool = flag("run on the embedded demo: real tissue, real weights")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.layer and self.layer not in self.layers:
            message = (
                f"--layer {self.layer} is not among --layers {' '.join(self.layers)}"
            )
            raise ConfigError(message)
        if self.demo and (self.tfrecords or self.slides or self.tiles or self.model):
            message = "--demo brings its own tiles and model: leave yours out"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """A model's layers and their output shapes."""

    model: str = option("", "the model", metavar="SPEC", positional=True)
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a run against its manifests and plan: each byte, each tile; writes nothing."""

    run: str = option(
        "", "the run directory", metavar="RUN", positional=True, nargs="?"
    )
    out: str = option("", "the same, as other verbs have it", metavar="RUN")
    source_root: str = option(
        "",
        "where the TFRecords or slides are now: their records are checked as well",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        if bool(self.run) == bool(self.out):
            message = "verify takes one run directory: raylatent verify RUN"
            raise ConfigError(message)

    @property
    def directory(self) -> str:
        """The run directory."""
        return self.run or self.out


_IGNORED = "ignored: taken so that the command line of `activations` serves"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(ActivationsConfig):
    """The job on some of the tiles: how fast, what binds, how long the whole takes.

    It takes the options of `activations`, so that the same command line serves.
    """

    out: str = option(
        "",
        "rows are written into a folder below, which is removed (default: into one in "
        "the temporary folder, which all nodes must see)",
        metavar="RUN",
    )
    job_tiles: int | None = option(
        None, "tiles of the job that is forecast (default: the sources')", metavar="N"
    )
    seconds: float = option(10.0, "how long activations are measured", metavar="S")
    overwrite: bool = flag(_IGNORED)
    recheck: bool | None = option(None, _IGNORED, no="--no-recheck")
    max_bad_fraction: float = option(0.01, _IGNORED, metavar="F")
    json: str = option("", "write what was found into this file", metavar="FILE")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.job_tiles is not None:
            at_least("--job-tiles", self.job_tiles, 1)
        above_zero("--seconds", self.seconds)
        if not self.model:
            message = (
                "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
            )
            raise ConfigError(message)
