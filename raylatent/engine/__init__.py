"""The only folder that imports Ray: spreads the pure functions over a cluster."""
