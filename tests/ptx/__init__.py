"""What NVRTC makes of the CUDA kernels, run instruction by instruction on a CPU.

``emulator.cpp`` executes PTX and checks what it executes, ``program`` parses it, ``emulator`` compiles kernels and launches
them on NumPy arrays. ``checks`` hold every kernel against float64, ``gallery`` has bugs that they must catch, ``races`` looks
for launches that might run at once and touch the same bytes. ``full`` runs everything, on every architecture.
"""
