"""``python -m lrp_hooks``."""

from lrp_hooks.cli import main

main()
