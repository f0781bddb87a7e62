"""An op for the tests of ``kernels/library.py``: it writes to a buffer, and has a gradient."""
