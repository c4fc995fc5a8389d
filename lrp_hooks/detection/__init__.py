"""Roles of modules, found by probing them, and the walk over the autograd graph that shows what no role covers."""
