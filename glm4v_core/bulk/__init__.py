"""The runner of large jobs: rows, outputs, resuming, the report."""
