r"""Draw the mosaic of a run's map: one tile for each cell of the map.

    python jobs/mosaic.py --out out/run --map default --num-tiles-x 50 \
        --select nearest --annotations annotations.csv --label subtype

`--source-root` says where the TFRecords are now, if they were moved.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent mosaic` with these arguments; returns the exit code."""
    return cli.main(["mosaic", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
