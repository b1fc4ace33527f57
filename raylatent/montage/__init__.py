"""From points to a picture made of tiles."""
