"""The tail of a PyramidNet block: the branch's last batch norm, ShakeDrop and the padded, pooled shortcut."""
