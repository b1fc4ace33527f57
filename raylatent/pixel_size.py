"""Micrometers a pixel: which numbers a microscope's pixels can have."""

FINEST_UM, COARSEST_UM = 0.02, 50.0
"""Beyond 100x with the smallest pixels, and coarser than an overview."""

_USUAL_UM = (0.05, 10.0)
_UNITS = (("nanometers", 1e-3), ("millimeters", 1e3), ("centimeters", 1e4))


def why_not_mpp(value: float) -> str | None:
    """Why a number cannot be the micrometers a pixel of a slide; None if it can.

    >>> why_not_mpp(0.25) is None, why_not_mpp(499)
    (True, 'that cannot be, it looks like 499 nanometers: 0.499 µm')
    """
    if FINEST_UM <= value <= COARSEST_UM:
        return None
    low, high = _USUAL_UM
    for unit, factor in _UNITS:
        if low <= value * factor <= high:
            return (
                f"that cannot be, it looks like {value:g} {unit}: "
                f"{value * factor:.4g} µm"
            )
    return f"that cannot be: a slide has {FINEST_UM:g} to {COARSEST_UM:g}, as 0.25"
