r"""A map of a run as a page that one can walk in, and that opens by double click.

    python jobs/explore.py out/run --annotations annotations.csv --label subtype

The page is RUN/explorer/<map>/index.html; of a run at a URI `--out` says where it goes.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent explore` with these arguments; returns the exit code."""
    return cli.main(["explore", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
