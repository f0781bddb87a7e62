"""The training of one model: the step on the device, the loop around it, and what it leaves behind."""
