"""A stand-in for a Databricks workspace, for tests and for trying things out. It is not Databricks.

An HTTP server that the unmodified ``databricks-sdk`` talks to. SQL runs on pysail (Spark SQL) and delta-rs, which
differ from Databricks SQL: what passes here shows syntax, shapes and behaviour of Headrace's calls, no more.
Nothing was compared with a real account; ``pytest -m live`` is what does that.
"""
