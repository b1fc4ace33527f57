"""What every verb that spreads units over actors takes."""

from dataclasses import dataclass

from raylatent.config.options import PatientConfig, at_least, flag, option, share
from raylatent.errors import ConfigError

UNIT_TILES = 2048
"""Tiles of a unit, where the user does not say and their rows are small enough."""


@dataclass(frozen=True, kw_only=True)
class WorkConfig(PatientConfig):
    """Units of work, spread over actors."""

    actors: str = option(
        "", "actors N, or MIN:MAX (default: by the cluster's size)", metavar="N"
    )
    unit_tiles: int | None = option(
        None,
        f"tiles in one unit of work (default {UNIT_TILES}, fewer where their rows would "
        "take more than 256 MiB)",
        metavar="N",
    )
    max_bad_fraction: float = option(
        0.01, "a slide with more bad tiles, and more than 10, fails", metavar="F"
    )
    recheck: bool | None = option(
        None,
        "read the parts that are kept and check every byte (default), not their "
        "footers only",
        no="--no-recheck",
    )
    overwrite: bool = flag("delete the rows of another configuration in RUN")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.unit_tiles is not None:
            at_least("--unit-tiles", self.unit_tiles, 1)
        share("--max-bad-fraction", self.max_bad_fraction)
        self.actor_range()

    def actor_range(self) -> tuple[int, int] | None:
        """Smallest and largest number of actors, None for the default.

        >>> WorkConfig(out="run", actors="1:4").actor_range()
        (1, 4)
        """
        if not self.actors:
            return None
        low, colon, high = self.actors.partition(":")
        try:
            smallest, largest = int(low), int(high if colon else low)
        except ValueError:
            smallest, largest = 0, 0
        if not 1 <= smallest <= largest:
            message = f"--actors is {self.actors!r}, not N or MIN:MAX with MIN from 1"
            raise ConfigError(message)
        return smallest, largest
