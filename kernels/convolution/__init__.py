"""Implicit-GEMM convolutions with batch norm and activation fused in: what the three convolution ops share.

``conv2d`` (with statistics for the batch norm after it), ``bn_act_conv2d`` (``conv(act(bn(x)))``) and
``conv2d_bn_act`` (``act(bn(conv(x)))``) are three settings of the same three kernels:

* forward (``triton_fwd.py``): BN and activation are applied to tiles of the input between shared memory and the tensor
  cores, statistics or a folded BN to tiles of the output;
* gradient of the input (``triton_dgrad.py``): the activation's mask and BN's two sums in its epilogue;
* gradient of the weight (``triton_wgrad.py``): recomputes the activated input, so only x is kept for the backward.

Statistics and sums are finished in the kernel that begins them, by the last programs to arrive (``triton_reduce.py``);
BN's scale and shift are worked out from its statistics, weight and bias where they are used. So a unit
``conv(act(BN(x)))`` whose input has moments is two launches forward and four backward.

Which tiles, and whether cuDNN with ``batch_norm_act`` runs instead (``library``), is in the tuning table by number of
channels. The default for a GPU without measurements is ``library``; ``python -m cifarfast.kernels.tune`` measures, and
``CIFARFAST_BACKEND=triton`` runs the kernels in any case. fp32 also goes to the library unless it is forced; then
products are split in three of tf32.
"""
