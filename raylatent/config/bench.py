"""What `raylatent bench` takes."""

import math
from dataclasses import dataclass

from raylatent.config.options import at_least, flag, option
from raylatent.config.verbs import ActivationsConfig
from raylatent.errors import ConfigError

_IGNORED = "ignored: taken so that the command line of `activations` serves"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(ActivationsConfig):
    """The job on some of the tiles: how fast, what binds, how long the whole takes.

    It takes the options of `activations`, so that the same command line serves.
    """

    out: str = option(
        "",
        "rows are written into a folder below, which is removed (default: into one in "
        "the temporary folder, which all nodes must see)",
        metavar="RUN",
    )
    job_tiles: int | None = option(
        None, "tiles of the job that is forecast (default: the sources')", metavar="N"
    )
    seconds: float = option(10.0, "how long activations are measured", metavar="S")
    overwrite: bool = flag(_IGNORED)
    recheck: bool | None = option(None, _IGNORED, no="--no-recheck")
    max_bad_fraction: float = option(0.01, _IGNORED, metavar="F")
    json: str = option("", "write what was found into this file", metavar="FILE")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.job_tiles is not None:
            at_least("--job-tiles", self.job_tiles, 1)
        if not 0 < self.seconds < math.inf:
            message = f"--seconds is {self.seconds}, not above 0"
            raise ConfigError(message)
        if not self.model:
            message = (
                "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
            )
            raise ConfigError(message)
