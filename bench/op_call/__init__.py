"""What a call of an op costs the host: ``python -m bench.op_call OLD NEW``."""
