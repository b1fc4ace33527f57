"""What each stage leaves in a run: arrays, maps, mosaics, manifests."""
