"""The fused kernels for an NVIDIA GPU. Iterations are captured as CUDA graphs and then replayed with no work on the host.

``math.cuh`` is the maths of one number, ``gemm.cuh`` a GEMM with an epilogue on the tensor cores, ``ptx.cuh`` the instructions
that only a GPU has, ``step.cu`` the kernels. ``device`` compiles and launches them, ``kernels`` is the table that the schedule
calls, ``graph`` captures and replays, ``driver`` has the one call of CUDA that CuPy lacks. ``device.Design`` has the switches.
"""
