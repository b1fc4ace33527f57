"""The explorer: a map as a pyramid of mosaics that one can walk in, and its page."""
