"""The explorer: a model and its explanations in the browser, served on this machine alone (``lrp-hooks serve``)."""
