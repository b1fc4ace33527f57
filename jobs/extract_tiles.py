r"""Cut whole slides into tiles and store them as TFRecords, as Slideflow does.

    python jobs/extract_tiles.py --slides slides/ --tile-px 299 --tile-um 302 \
        --out out/tiles

The TFRecords are in out/tiles/299px_302um, a page with each slide's picture and the
tiles that were kept is out/tiles/slides.html. Killed and started again, it goes on
where it was.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent extract-tiles` with these arguments; returns the exit code."""
    return cli.main(["extract-tiles", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
