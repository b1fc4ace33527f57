"""Putting the weights of a file into a model, all of them or none."""

import logging

from torch import Tensor, nn

from raylatent.errors import ModelError
from raylatent.model.fitting import Fit, find_weights, listed
from raylatent.model.weight_files import read_checkpoint

logger = logging.getLogger(__name__)

_SHOWN = 5


def load_weights(model: nn.Module, uri: str, key: str | None = None) -> None:
    """Put weights into a model that has just their names and shapes.

    What a training program wrote around them is taken off, see `find_weights`, and said
    in one line.

    Args:
        model: It gets the weights.
        uri: Path or URI of the file.
        key: Where in the file, where more than one place fits.

    Raises:
        ModelError: They cannot be read, or do not fit: the message has what is missing,
            what is too much, and what has another shape.
    """
    saved = read_checkpoint(uri)
    own = model.state_dict(keep_vars=True)
    found = find_weights(own, saved, key)
    if not isinstance(found, Fit):
        message = f"weights {uri} {found}"
        raise ModelError(message)
    if found.taken:
        logger.info("weights %s: %s%s", uri, found.taken, _unused(found))
    on_meta = any(isinstance(value, Tensor) and value.is_meta for value in own.values())
    try:
        model.load_state_dict(found.state, strict=False, assign=on_meta)
    except RuntimeError as error:  # of a module's own way to load
        message = f"weights {uri} do not fit the model: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def _unused(found: Fit) -> str:
    if not found.unused:
        return ""
    return f"; not used: {listed(found.unused, _SHOWN)}"
