"""What data there is, and how it is read, stored and described. Knows neither Temporal nor Dagster."""
