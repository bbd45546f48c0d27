"""The private Dagster names that the bridge leans on still have the shape it was written for."""

from __future__ import annotations

import inspect

import dagster as dg

from temporal_bridge import _compat


def test_the_reattach_functions_take_the_arguments_the_bridge_gives() -> None:
    assert {"client_name"} <= set(inspect.signature(_compat.find_latest_launch_handle).parameters)
    launch = set(inspect.signature(_compat.record_external_launch).parameters)
    assert {"client_name", "external_run_id", "external_run_url", "extras"} <= launch
    assert len(inspect.signature(_compat.record_external_reattach).parameters) >= 2


def test_the_retry_tags_are_the_ones_that_dagster_sets() -> None:
    assert _compat.RESUME_RETRY_TAG == "dagster/is_resume_retry"
    assert _compat.ASSET_RESUME_RETRY_TAG == "dagster/is_asset_resume_retry"


def test_an_interrupt_is_no_ordinary_exception_and_the_client_is_a_resource_parameter() -> None:
    assert issubclass(_compat.DagsterExecutionInterruptedError, BaseException)
    assert not issubclass(_compat.DagsterExecutionInterruptedError, dg.Failure)
    assert isinstance(_compat.TreatAsResourceParam, type)
