"""The anatomy of a model: its blocks, residual stream, embedding, head and outputs, found by running it once."""
