"""The attribution graph: edges between the residual points of neighbouring blocks."""
