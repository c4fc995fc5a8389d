"""Scripts that run inside the peers' environments."""
