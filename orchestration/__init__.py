"""What runs when, and who sees it: Dagster definitions, the Python API, the command line, the one-machine stack."""
