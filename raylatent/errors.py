"""Every error that raylatent raises on purpose.

    RaylatentError
    ├── InputError            what was asked for makes no sense, or is not there
    │   ├── ConfigError       an option or argument
    │   ├── SourceError       a TFRecord or slide that cannot be opened or indexed
    │   │   └── MissingMPPError  a slide that does not say how large its pixels are
    │   ├── AnnotationsError  the annotations file
    │   ├── ModelError        a model that cannot be loaded or run
    │   │   ├── PassError     it fails on a batch
    │   │   └── LayerError    a layer that the model does not have
    │   └── MapError          a map or mosaic that cannot be made or opened
    ├── RunError              a run directory that is refused
    │   ├── FingerprintError  it holds another configuration's rows
    │   ├── VersionError      another version of raylatent made it
    │   ├── ClaimError        another driver is working on it
    │   └── VisibilityError   a node does not see it, the sources or the model
    ├── ContentError          one tile's bytes are bad: becomes a quarantine row
    ├── StorageError          reading or writing failed after retries
    │   └── BrokenPartError   a part's bytes are not those that were written
    └── IncompleteError       the run ended, but some slide failed

Each message is one sentence that says what was wrong, where, and what to do.
"""


class RaylatentError(Exception):
    """Base of all errors that raylatent raises on purpose."""

    exit_code = 1


class InputError(RaylatentError):
    """What was asked for makes no sense, or is not there."""

    exit_code = 2


class ConfigError(InputError):
    """An option or argument is out of range or contradicts another."""


class SourceError(InputError):
    """A TFRecord or slide cannot be opened or indexed."""


class MissingMPPError(SourceError):
    """A slide does not say how many µm a pixel is, and nobody else did."""


class AnnotationsError(InputError):
    """The annotations file cannot be read, or lacks a column."""


class ModelError(InputError):
    """A model cannot be loaded, or fails on a batch."""


class PassError(ModelError):
    """The model's own code fails on a batch."""


class LayerError(ModelError):
    """The model has no such layer, or its name cannot be a column."""


class MapError(InputError):
    """A map or a mosaic cannot be made, stored or opened."""


class RunError(RaylatentError):
    """A run directory is refused."""

    exit_code = 2


class FingerprintError(RunError):
    """The run directory holds rows of another configuration."""


class VersionError(RunError):
    """The run was made by another version of raylatent."""


class ClaimError(RunError):
    """Another driver is working on the run directory, or took it over."""


class VisibilityError(RunError):
    """A node of the cluster does not see the run directory, sources or model."""


class ContentError(RaylatentError):
    """One tile's bytes are bad; the tile becomes a quarantine row.

    Attributes:
        stage: Where it was noticed: `read`, `parse`, `decode` or `forward`.
    """

    def __init__(self, message: str, *, stage: str) -> None:
        """Say what is wrong with the tile, and at which stage it showed."""
        super().__init__(message)
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the stage (exceptions otherwise pickle `args` only)."""
        return _content_error, (str(self), self.stage)


def _content_error(message: str, stage: str) -> ContentError:
    return ContentError(message, stage=stage)


class StorageError(RaylatentError):
    """Reading or writing failed, also after retries; never a quarantine row."""


class BrokenPartError(StorageError):
    """A part's bytes are not those that were written; its unit is not done.

    Args:
        message: The whole sentence.
        why: What is wrong, without the name of the file.
    """

    def __init__(self, message: str, why: str = "") -> None:
        """See the class."""
        super().__init__(message)
        self.why = why or message


class IncompleteError(RaylatentError):
    """The run ended, all else is finished and kept, but some slide failed."""
