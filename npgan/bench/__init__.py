"""``npgan bench``: milliseconds per iteration of npgan and its peers, measured side by side.

``job`` is the command, ``worker`` the process that each contestant runs in, ``contestants`` and ``peers`` what is timed,
``gpu`` and ``gpu_peers`` the same on a GPU, ``profile`` and ``gpu_profile`` the time of every part of one iteration.
"""
