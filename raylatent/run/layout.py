"""The run directory: the names of what is in it.

- `run.json`: configuration, fingerprint, versions; written first
- `sources.parquet`: the plan, one row a slide
- `activations/slide=<name>/<unit>.parquet`
- `quarantine/slide=<name>/<unit>.parquet`
- `grids/slide=<name>/000000.parquet`: of whole slides: which tiles were left out, why
- `thumbnails/slide=<name>/grid.jpg`: of whole slides, with the kept tiles drawn
- `removed/`: rows of slides that a later run no longer names
- `report.json`, `maps/<name>/`, `mosaics/<name>/`
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
)
