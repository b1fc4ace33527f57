"""The run directory: the names of what is in it.

- `run.json`: configuration, fingerprint, versions; written first
- `sources.parquet`: the plan, one row a slide
- `activations/slide=<name>/<unit>.parquet`
- `quarantine/slide=<name>/<unit>.parquet`
- `grids/slide=<name>/000000.parquet`: of whole slides: which tiles were left out, why
- `thumbnails/slide=<name>/grid.jpg`: of whole slides, with the kept tiles drawn
- `removed/`: rows of slides that a later run no longer names
- `report.json`, `maps/<name>/`, `mosaics/<name>/`
- `manifest/<verb>.parquet`: path, size and digest of each file that a verb left
"""

SOURCES = "sources.parquet"
REPORT = "report.json"
ACTIVATIONS = "activations"
QUARANTINE = "quarantine"
TILES = "tiles"
FINISHED = "finished"
GRIDS = "grids"
THUMBNAILS = "thumbnails"
REMOVED = "removed"
MAPS = "maps"
MOSAICS = "mosaics"
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
    MANIFESTS,
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
