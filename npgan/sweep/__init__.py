"""Many runs on many workers: ``npgan sweep``.

``plan`` says which runs; ``work`` is what a worker does with one; ``cluster`` has the workers; ``examine`` looks at a run that
has ended; ``report`` and ``pictures`` tell of all of them; ``command`` is the job.
"""
