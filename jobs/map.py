r"""Fit UMAP on a sample of a run's activations and place every row on it.

    python jobs/map.py --out out/run --layer postconv --sample 100000 \
        --n-neighbors 50 --min-dist 0.1 --metric cosine \
        --annotations annotations.csv --label subtype

The same arguments again change nothing; others replace the map.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent map` with these arguments; returns the exit code."""
    return cli.main(["map", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
