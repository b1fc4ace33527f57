"""The run directory: the names of what is in it, and the manifest that lists each.

- `run.json`: configuration, fingerprint, versions; written first
- `sources.parquet`: the plan, one row a slide
- `activations/slide=<name>/<unit>.parquet`
- `quarantine/slide=<name>/<unit>.parquet`
- `grids/slide=<name>/000000.parquet`: of whole slides: which tiles were left out, why
- `thumbnails/slide=<name>/grid.jpg`: of whole slides, with the kept tiles drawn
- `removed/`: rows of slides that a later run no longer names
- `tiles/`, `finished/`: of extract-tiles: slides under way, and those that are whole
- `report.json`, `slides.html`, `maps/<name>/`, `mosaics/<name>/`, `explorer/<map>/`
- `manifest/<verb>.parquet`: path, size and digest of each file that a verb left, but
  for `slides.html`
"""

import re

from raylatent import schema
from raylatent.parts import is_part

SOURCES = "sources.parquet"
REPORT = "report.json"
SLIDES_PAGE = "slides.html"
PSEUDONYMS = "pseudonyms.csv"
"""The table of random names that a page shows for slides; listed in no manifest."""
REGIONS_JSON = "regions.json"
"""In a map's folder: regions whose names label its tiles."""
CLUSTERS = "clusters"
CLUSTERS_JSON = f"{CLUSTERS}.json"
"""Likewise: the cluster of each tile, and what they are clusters of."""
ACTIVATIONS = "activations"
QUARANTINE = "quarantine"
TILES = "tiles"
FINISHED = "finished"
GRIDS = "grids"
THUMBNAILS = "thumbnails"
REMOVED = "removed"
MAPS = "maps"
MOSAICS = "mosaics"
EXPLORER = "explorer"
EXPLORER_JSON = "explorer.json"
MANIFESTS = "manifest"
FOLDERS = (
    ACTIVATIONS,
    QUARANTINE,
    TILES,
    FINISHED,
    GRIDS,
    THUMBNAILS,
    REMOVED,
    MAPS,
    MOSAICS,
    EXPLORER,
    MANIFESTS,
)

_OUTPUTS = {
    MAPS: "map",
    MOSAICS: "mosaic",
    EXPLORER: "explore",
}  # folders, and the verbs that fill them
_SLIDE = r"slide=[^/]+"
_STAGES = "|".join((ACTIVATIONS, QUARANTINE, TILES, GRIDS))
_OURS = re.compile(
    rf"(?:{REMOVED}/)?(?:{_STAGES})/{_SLIDE}/[0-9]+\.parquet"
    rf"|(?:{REMOVED}/)?{THUMBNAILS}/{_SLIDE}/grid\.jpg"
    rf"|{REMOVED}/{SOURCES}"
    rf"|{FINISHED}/{_SLIDE}/record\.json"
    rf"|{MAPS}/[^/]+/(?:map\.json|model\.npz|regions\.json|clusters\.json)"
    rf"|{MAPS}/[^/]+/(?:points|{CLUSTERS})/{_SLIDE}/[0-9]+\.parquet"
    rf"|{MOSAICS}/[^/]+/(?:mosaic\.json|cells\.parquet)"
    rf"|(?:{MAPS}|{MOSAICS})/[^/]+/[^/]+\.(?:png|jpg|jpeg|pdf|svg|csv)"
    rf"|{EXPLORER}/[^/]+/(?:explorer\.json|cells\.parquet|mosaic\.dzi"
    r"|[a-z_]+\.(?:html|css|js)|data/(?:meta|(?:cells|points|slides|similar)/[0-9/]+)\.js"
    r"|(?:mosaic_files|tiles)/[0-9]+/[0-9_]+\.jpg|slides/[0-9]+\.jpg)"
    rf"|{MANIFESTS}/[^/]+\.parquet"
)


def manifest_of(verb: str, name: str = "") -> str:
    """The name of the manifest of what a verb left.

    Args:
        verb: As on the command line.
        name: Of the map or mosaic, where the verb has several.

    >>> manifest_of("activations"), manifest_of("map", "default")
    ('manifest/activations.parquet', 'manifest/map-default.parquet')
    """
    return f"{MANIFESTS}/{verb}{f'-{name}' if name else ''}.parquet"


def manifest_of_file(name: str, verb: str) -> str:
    """The manifest that lists a file of a run.

    Args:
        name: The file.
        verb: That the run directory itself is of.

    >>> manifest_of_file("maps/b/umap.png", "activations")
    'manifest/map-b.parquet'
    """
    folder, _, rest = name.partition("/")
    if folder in _OUTPUTS and "/" in rest:
        return manifest_of(_OUTPUTS[folder], rest.split("/", 1)[0])
    return manifest_of(verb)


def manifest_of_folder(uri: str) -> tuple[str, str] | None:
    """Where a map's or mosaic's folder would be in a run: the run, and its manifest.

    >>> manifest_of_folder("s3://bucket/run/maps/b")
    ('s3://bucket/run', 'manifest/map-b.parquet')
    >>> manifest_of_folder("/home/me/b") is None
    True
    """
    root, _, name = uri.rpartition("/")
    root, _, kind = root.rpartition("/")
    if kind not in _OUTPUTS or not root:
        return None
    return root, manifest_of(_OUTPUTS[kind], name)


def is_ours(name: str) -> bool:
    """Whether a file in a run's folders is called as one that raylatent writes.

    >>> is_ours("activations/slide=a/000001.parquet"), is_ours("activations/x.parquet")
    (True, False)
    """
    if _OURS.fullmatch(name) is None or not _is_text(name):
        return False
    in_slide = f"/{schema.SLIDE}=" in name
    return not (in_slide and name.endswith(".parquet")) or is_part(name)


def _is_text(name: str) -> bool:
    """Whether a name is in UTF-8, as all of ours are: others cannot be opened."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def is_inside(name: str) -> bool:
    """Whether a name that a file tells is one below the run directory.

    >>> is_inside("a/b.npz"), is_inside("../b.npz"), is_inside("/dev/zero")
    (True, False, False)
    """
    below = all(part not in {"", ".", ".."} for part in name.split("/"))
    return below and "\0" not in name and _is_text(name)
