"""``npgan bench``: milliseconds per iteration of npgan and the baselines, PyTorch and JAX, measured side by side.

``command`` is the command, ``measure`` takes the times, ``worker`` is the process that each candidate runs in. ``cpu`` and
``gpu`` are npgan's own candidates, ``baselines`` and ``gpu_baselines`` the others. ``profile`` and ``gpu_profile`` show the
time of every part of one iteration. ``base`` is what all of them know.
"""
