"""What `raylatent activations` takes."""

from dataclasses import dataclass

from raylatent.config.options import (
    at_least,
    flag,
    names,
    number_from,
    one_of,
    option,
)
from raylatent.config.slides import SlidesConfig

POOLINGS = ("none", "avg", "max", "cls")
DTYPES = ("float32", "float16")
MIN_BATCH = 16
"""Smaller batches change bits with the number of threads (measured, oneDNN)."""


@dataclass(frozen=True, kw_only=True)
class ActivationsConfig(SlidesConfig):
    """TFRecords or whole slides, and a model, to Parquet."""

    tfrecords: tuple[str, ...] = option(
        (), "TFRecord files, folders or URIs", metavar="PATH", many=True
    )
    model: str = option(
        "", "model folder, timm:NAME or hf-hub:REPO@REVISION", metavar="SPEC"
    )
    layers: tuple[str, ...] = option(
        ("postconv",), "layers by name in the model", metavar="NAME", many=True
    )
    pooling: str | None = option(
        None,
        "of maps larger than 1x1 and of tokens (default: none up to 8,192 numbers a "
        "tile, beyond you are asked)",
        choices=POOLINGS,
    )
    include_preds: bool | None = option(
        None, "store predictions (default: if the model has classes)", no="--no-preds"
    )
    dtype: str = option("float32", "of the stored activations", choices=DTYPES)
    num_gpus: float | None = option(
        None, "GPUs for each actor (default: 1 if the cluster has any)", metavar="F"
    )
    batch_size: int = option(32, "tiles in one pass of the model", metavar="N")
    mixed_precision: bool | None = option(
        None,
        "bfloat16 autocast: faster on GPUs, less exact (default: no)",
        no="--no-mixed-precision",
    )
    compile: bool = flag(
        "torch.compile of the model for one shape: faster on GPUs, other last digits"
    )
    resize: bool | None = option(
        None,
        "tiles of another side than the model's are resized (default), or refused",
        no="--no-resize",
    )
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.pooling is not None:
            one_of("--pooling", self.pooling, POOLINGS)
        one_of("--dtype", self.dtype, DTYPES)
        at_least("--batch-size", self.batch_size, MIN_BATCH)
        if self.num_gpus is not None:
            number_from("--num-gpus", self.num_gpus, 0)
        names("--layers", self.layers)
