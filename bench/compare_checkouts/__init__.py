"""Two checkouts beside each other: ``python -m bench.compare_checkouts OLD NEW``."""
