"""Names of columns that tell when a row changed."""

CURSOR_NAMES = frozenset(
    [
        "updated_at",
        "updatedat",
        "update_time",
        "updated_on",
        "updated",
        "modified_at",
        "modifiedat",
        "modified_on",
        "modified",
        "last_modified",
        "lastmodified",
        "last_modified_at",
        "last_updated",
        "last_updated_at",
        "last_update",
        "changed_at",
        "changed_on",
        "mtime",
        "row_updated_at",
    ]
)
