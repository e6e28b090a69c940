"""One node on one machine: its data directory, the engine it starts, and the workers that serve.

With `app` the composition root: `node` starts processes, `app` is what each worker process runs.
"""
