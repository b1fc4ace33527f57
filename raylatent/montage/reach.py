"""How far points reach, on the map and in each column: the first look at them.

From it every worker of a cluster makes the same grid, and the same scales of sums.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raylatent.montage.grid import Bounds
from raylatent.montage.medoid import feature_scale, features_of, largest_feature
from raylatent.montage.points import Points


@dataclass(frozen=True, kw_only=True)
class Scales:
    """By which columns are summed as integers, see `medoid.feature_scale`."""

    feature: float = 1.0
    prediction: float = 1.0
    knn_distance: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What some points span; of parts they merge to those of the whole.

    Attributes:
        bounds: On the map.
        feature: The largest absolute value; 0 where they were not looked at.
        prediction: The largest finite absolute value; 1 at least is reckoned with.
        knn_distance: Likewise.
    """

    bounds: Bounds = field(default_factory=Bounds)
    feature: float = 0.0
    prediction: float = 0.0
    knn_distance: float = 0.0

    @classmethod
    def of(cls, points: Points, *, medoid: bool) -> "Reach":
        """Of some points; their features only for `medoid`, which needs them."""
        return cls(
            bounds=Bounds.of(points.xy),
            feature=largest_feature(features_of(points)) if medoid else 0.0,
            prediction=_largest(points.predictions),
            knn_distance=_largest(points.knn_distance),
        )

    def merge(self, other: "Reach") -> "Reach":
        """Of both sets of points together."""
        return Reach(
            bounds=self.bounds.merge(other.bounds),
            feature=max(self.feature, other.feature),
            prediction=max(self.prediction, other.prediction),
            knn_distance=max(self.knn_distance, other.knn_distance),
        )

    def scales(self) -> Scales:
        """For sums over all these points."""
        n = self.bounds.n + self.bounds.n_dropped
        return Scales(
            feature=feature_scale(self.feature, n),
            prediction=feature_scale(max(1.0, self.prediction), n),
            knn_distance=feature_scale(self.knn_distance, n),
        )


def _largest(values: NDArray[np.floating] | None) -> float:
    """The largest finite absolute value, 0 without any."""
    if values is None or not values.size:
        return 0.0
    return float(np.abs(values).max(initial=0.0, where=np.isfinite(values)))
