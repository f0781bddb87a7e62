"""ShakeDrop: a residual sum whose branch is scaled at random, differently forward and backward."""
