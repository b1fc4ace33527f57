r"""How fast each stage is on this cluster, and how long a job will take.

    python jobs/bench.py --tfrecords tfrecords/299px_302um --model model/ \
        --out out/run --tiles 100000000

Takes the options of jobs/activations.py. Reading, decoding, the model, writing, reading
back, placing, a mosaic's cells and drawing are measured on one node of each kind, with the
user's own data and model; the lines say which of them binds and what to add. Nothing stays
below RUN, and no folder that was made for it.
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent bench` with these arguments; returns the exit code."""
    return cli.main(["bench", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
