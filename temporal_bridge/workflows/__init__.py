"""Deterministic workflows. Their files import the standard library, temporalio, ``assets.sync`` and each other only."""
