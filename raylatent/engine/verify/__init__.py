"""Whether a run is what it says: checked by the cluster, and before a re-run keeps it."""
