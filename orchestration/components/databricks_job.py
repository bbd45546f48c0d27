"""A Databricks job as an asset, from YAML.

```yaml
type: orchestration.components.databricks_job.DatabricksJobComponent
attributes:
  asset_key: gold/revenue
  deps: [silver/shop/public__orders]
  job: {name: revenue, job_id: 42, parameters: {day: "2026-11-24"}}
```
"""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.databricks_job import DatabricksJob
from orchestration.databricks_job_asset import databricks_job_asset


class DatabricksJobComponent(dg.Component, dg.Model, dg.Resolvable):
    """One asset, made by a job of the workspace (``job_id``) or by ``tasks`` as the Jobs API takes them."""

    asset_key: str
    job: dict[str, Any]
    deps: list[str] = Field(default_factory=list)
    group_name: str | None = None
    description: str | None = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        asset = databricks_job_asset(
            self.asset_key,
            DatabricksJob.model_validate(self.job),
            deps=self.deps,
            group_name=self.group_name,
            description=self.description,
        )
        return dg.Definitions(assets=[asset])
