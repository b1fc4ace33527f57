"""The configuration of each verb that works on a map that is there."""

from dataclasses import dataclass

from raylatent.config.options import between, flag, one_of, option, plain_name
from raylatent.errors import ConfigError

EXPORTS = ("csv", "geojson", "roi", "parquet", "png", "slides")
MOST_CLUSTERS = 1_000


@dataclass(frozen=True, kw_only=True)
class RunMapConfig:
    """A map of a run that is there."""

    run: str = option("", "the run directory", metavar="RUN", positional=True)
    map: str = option("default", "name below maps/", metavar="NAME")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        plain_name("--map", self.map)


@dataclass(frozen=True, kw_only=True)
class SlidesMapConfig(RunMapConfig):
    """A map of a run, and where its tiles and slides are."""

    slides: tuple[str, ...] = option(
        (),
        "slides that the tiles of TFRecords were cut from, or folders of them",
        metavar="PATH",
        many=True,
    )
    source_root: str = option(
        "",
        "where the TFRecords, slides or pictures are now, if they were moved",
        metavar="PATH",
    )


@dataclass(frozen=True, kw_only=True)
class SelectConfig(SlidesMapConfig):
    """The tiles of a map inside a polygon, or inside named regions, as files."""

    polygon: str = option(
        "",
        "a polygon file, or a list of named regions, as the explorer saves them; may "
        "be left out with --cluster",
        metavar="POLYGON",
        positional=True,
        nargs="?",
    )
    cluster: int | None = option(
        None, "only tiles of this cluster, see `cluster`", metavar="N"
    )
    to: str = option(
        "csv",
        "csv and parquet: a table; geojson: for QuPath, a file a slide; roi: regions as "
        "Slideflow reads them, a file a slide; png: the tiles as pictures; slides: where "
        "they lie on each slide, and all slides on a sheet",
        choices=EXPORTS,
    )
    out: str = option(
        "",
        "the file of a table, else the folder, local or a URI",
        metavar="PATH",
        required=True,
    )
    region: tuple[str, ...] = option(
        (), "only these of the named regions (default: all)", metavar="NAME", many=True
    )
    any_map: bool = flag("take a polygon that was drawn on another map")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        one_of("--to", self.to, EXPORTS)
        if not self.out:
            message = "--out PATH is missing: the file or folder to write"
            raise ConfigError(message)
        if not self.polygon and self.cluster is None:
            message = "select takes a polygon file or --cluster N, or both"
            raise ConfigError(message)
        if self.region and not self.polygon:
            message = "--region chooses among the regions of a file: give it as well"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class LabelConfig(RunMapConfig):
    """Named regions of a map as labels of its tiles, for its pictures and mosaics."""

    regions: str = option(
        "",
        "regions.json as the explorer saves it; an empty list takes the labels away",
        metavar="REGIONS",
        positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(RunMapConfig):
    """Clusters of a map's tiles by their activations, as labels of the tiles.

    K-means of the activations that were mapped, as the map's metric has them, and not of
    places in the picture: fitted on the map's sample, then each tile belongs to the
    nearest center. `cluster 1` is the largest of the sample.
    """

    n: int = option(
        -1, "how many; 0 takes away those that are there", metavar="K", required=True
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        between("--n", self.n, 0, MOST_CLUSTERS)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(SlidesMapConfig):
    """The explorer of a run for a browser, with the slides themselves."""

    port: int = option(0, "to listen on (default: a free one)", metavar="N")
    host: str = option(
        "127.0.0.1",
        "address to listen on; without TLS others can read what goes to another one",
        metavar="H",
    )
    explorer: str = option(
        "",
        "the folder that `raylatent explore` wrote (default: RUN/explorer/<map>)",
        metavar="DIR",
    )
    allow_host: tuple[str, ...] = option(
        (),
        "names by which browsers may call it, beside those of this host",
        metavar="NAME",
        many=True,
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if not 0 <= self.port < 1 << 16:
            message = f"--port is {self.port}, not 0 to {(1 << 16) - 1}"
            raise ConfigError(message)
