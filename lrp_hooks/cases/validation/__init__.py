"""Validation by intervention: words are masked until the prediction changes and the answer passes."""
