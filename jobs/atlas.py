r"""Do everything: activations, map and mosaic of a folder of TFRecords.

On the embedded demo (real tissue, nothing to download but packages):

    python jobs/atlas.py --demo --out out/demo

On your own tiles:

    python jobs/atlas.py --tfrecords tfrecords/299px_302um --model model/ \
        --layers postconv --annotations annotations.csv --label subtype --out out/run

On a Ray cluster (everything on storage that all nodes see):

    ray job submit --working-dir . -- python jobs/atlas.py \
        --tfrecords s3://bucket/tfrecords --model s3://bucket/model \
        --num-gpus 1 --actors 1:16 --out s3://bucket/run
"""

import sys
from collections.abc import Sequence

from raylatent import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raylatent atlas` with these arguments; returns the exit code."""
    return cli.main(["atlas", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
