"""The machine: CUDA graphs, processes, signals, precision, the compiled extension."""
