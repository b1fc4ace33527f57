r"""Check a run against its plan: every byte of every part, every tile, every point.

    python jobs/verify.py out/run

Nothing is written. `--source-root` says where the TFRecords are now, and has their
records checked as well.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent verify` with these arguments; returns the exit code."""
    return cli.main(["verify", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
