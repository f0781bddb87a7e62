"""A training step of this package beside the same step written with torch: what is run, verified and timed."""
