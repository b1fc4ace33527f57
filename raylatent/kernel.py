"""How inner loops are compiled.

Importing this module imports numba.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from raylatent.caches import use_private_caches

use_private_caches()

import numba  # noqa: E402

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile for use without the interpreter's lock, and keep the machine code.

    It is kept beside the source or in the user's cache; where neither can be written,
    for as long as the process lasts, see `caches`.
    """
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("F", compiled)
