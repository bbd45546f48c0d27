"""The REST API, ``/api/v1``: `orchestration.headrace.Headrace` over HTTP, no logic of its own."""
