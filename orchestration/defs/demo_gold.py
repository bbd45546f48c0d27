"""How users build on Silver: plain Dagster. Daily revenue of the demo shop."""

from __future__ import annotations

import dagster as dg

from assets.settings import Settings
from orchestration.code_locations import CodeLocation
from orchestration.demo_shop import DEMO_MARKER


@dg.definitions
def demo_gold() -> dg.Definitions:
    """The Gold asset, in a home that `make demo` made; nothing elsewhere."""
    settings = Settings()
    if not (CodeLocation.of_process(settings).is_first and (settings.home_path / DEMO_MARKER).exists()):
        return dg.Definitions()

    @dg.asset(
        key=["gold", "daily_revenue"],
        deps=[dg.AssetKey(["silver", "shop", "public.orders"])],
        group_name="gold",
        kinds={"delta", "gold"},
        description="Orders and revenue a day, without cancelled orders.",
    )
    def daily_revenue() -> dg.MaterializeResult:
        import duckdb
        from deltalake import write_deltalake

        from orchestration.silver_reader import silver_rows

        with silver_rows("shop", "public.orders", ["placed_at", "status", "total"]) as orders, duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("orders", orders)
            days = db.execute(
                "SELECT placed_at::date AS day, count(*) AS orders, sum(total)::decimal(38, 2) AS revenue"
                " FROM orders WHERE status <> 'cancelled' GROUP BY day ORDER BY day"
            ).to_arrow_table()
        target = str(Settings().home_path / "gold" / "daily_revenue")
        write_deltalake(target, days, mode="overwrite")
        return dg.MaterializeResult(metadata={"dagster/row_count": days.num_rows, "dagster/uri": target})

    return dg.Definitions(assets=[daily_revenue])
