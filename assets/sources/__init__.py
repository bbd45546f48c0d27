"""Connector types: one file each, all behind ``assets.sources.interface``."""
