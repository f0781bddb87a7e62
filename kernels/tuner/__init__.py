"""Choosing tiles for a GPU model: ``python -m cifarfast.kernels.tune`` on a machine that has one.

Every candidate (``candidates.py``) of every op is first checked against the reference in fp64 and then timed at the
shapes of WRN-16-8 and PyramidNet-110 (``workloads.py``, ``measure.py``). What was measured is kept in
``<table>.measurements.json`` after every shape (``record.py``), so that an interrupted run goes on where it was; the
fastest candidates of what is there make up the table (``select.py``). A convolution's three kernels are tuned apart;
then the whole op with the best of them is compared with cuDNN and ``batch_norm_act``, and the faster one is chosen.
"""
