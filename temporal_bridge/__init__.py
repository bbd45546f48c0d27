"""How long work survives: Temporal client, workflows, activities, worker and the Dagster Pipes client."""
