"""What Headrace knows of its own: connectors, pipelines and runs."""
