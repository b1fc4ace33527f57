r"""How fast a job is on this cluster, what binds it, and how long all of it will take.

    python jobs/bench.py --tfrecords tfrecords/299px_302um --model model/ \
        --out out/run --job-tiles 100000000

Takes the options of jobs/activations.py. The job is done on some of the user's own tiles,
in a folder below RUN that is removed at the end: activations for a while, then a map as
large as the job's and a mosaic. The lines say how fast each of them is on this cluster,
what binds, what to add, and how long the whole job takes.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent bench` with these arguments; returns the exit code."""
    return cli.main(["bench", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
