"""What `raylatent verify` takes."""

from dataclasses import dataclass

from raylatent.config.options import option
from raylatent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a run against its manifests and plan: each byte, each tile; writes nothing."""

    run: str = option(
        "", "the run directory", metavar="RUN", positional=True, nargs="?"
    )
    out: str = option("", "the same, as other verbs have it", metavar="RUN")
    source_root: str = option(
        "",
        "where the TFRecords or slides are now: their records are checked as well",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        if bool(self.run) == bool(self.out):
            message = "verify takes one run directory: raylatent verify RUN"
            raise ConfigError(message)

    @property
    def directory(self) -> str:
        """The run directory."""
        return self.run or self.out
