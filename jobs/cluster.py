r"""Clusters of a map's tiles by their activations, stored beside the points.

    python jobs/cluster.py out/run --n 8

Colors, filters, mosaics and selections know them as labels: `cluster 1` is the largest.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent cluster` with these arguments; returns the exit code."""
    return cli.main(["cluster", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
