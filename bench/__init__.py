"""Benchmarks: ``pytest bench --benchmark-enable``; ``python -m bench.gpu_check`` for all that needs a GPU."""
