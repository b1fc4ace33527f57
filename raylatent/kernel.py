"""How inner loops are compiled.

Importing this module imports numba.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile for use without the interpreter's lock, and keep the machine code.

    It is kept beside the source or, where that cannot be written, in the user's cache;
    where neither can, it is compiled in each process.
    """
    try:
        compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(
            function
        )
    except RuntimeError:
        compiled = numba.njit(nogil=True, error_model="numpy")(function)
    return cast("F", compiled)
