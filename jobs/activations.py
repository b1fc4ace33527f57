r"""Compute and store the layer activations of every tile, and nothing else.

    python jobs/activations.py --tfrecords tfrecords/299px_302um --model model/ \
        --layers postconv --dtype float16 --actors 2 --out out/run

Killed and started again, it goes on where it was.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent activations` with these arguments; returns the exit code."""
    return cli.main(["activations", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
