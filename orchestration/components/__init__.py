"""Dagster components of Headrace."""
