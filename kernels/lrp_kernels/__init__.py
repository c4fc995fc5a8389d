"""Operators of lrp_hooks: LRP gradients and relevance reductions on plain tensors."""
