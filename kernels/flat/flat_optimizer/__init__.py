"""Optimizer steps over one flat buffer: SGD, Adam, AdamW, NAdam, Adamax, RMSprop, Adagrad, each with EMA and copy."""
