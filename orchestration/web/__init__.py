"""The one address of an installation: Dagster's UI, Headrace's pages and the REST API in one server."""
