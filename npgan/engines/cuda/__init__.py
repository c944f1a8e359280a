"""A whole training step on an NVIDIA GPU, captured once as a CUDA graph and then replayed with no work on the host.

``device.cuh`` is the maths of one number, ``product.cuh`` a matrix product on the tensor cores with a function of its result
at the end, ``machine.cuh`` the instructions that only a GPU has, ``step.cu`` the kernels. ``gpu`` compiles and launches,
``step`` is one iteration as a list of launches, ``epochs`` captures and replays it.
"""
