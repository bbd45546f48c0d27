"""INT96 timestamps of Parquet files: nanoseconds of a day and a day, read without losing either.

Arrow reads them as microseconds, which cuts the fraction below one, or as nanoseconds, which wrap around outside the
years 1678 to 2261. Both are read here, so that a cut or a wrap cannot go unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import SourceAccessError

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_MICROSECONDS = (2**63 - 1) // 1000 - 1


def int96_columns(file: Any) -> list[str]:
    """The top-level columns of an open Parquet file that hold INT96 values, themselves or inside."""
    schema = file.schema
    found = (schema.column(i) for i in range(len(schema)))
    return list(dict.fromkeys(c.path.split(".")[0] for c in found if c.physical_type == "INT96"))


def finest(microseconds: pa.Array, nanoseconds: pa.Array, where: str) -> pa.Array:
    """The one of two readings of a column that holds all of its values.

    Raises:
        SourceAccessError: neither does.
    """
    import numpy as np

    fine = far = False
    for coarse, exact in zip(_leaves(microseconds), _leaves(nanoseconds), strict=True):
        whole = coarse.view("int64").fill_null(0).to_numpy(zero_copy_only=False)
        wrapped = exact.view("int64").fill_null(0).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            fine |= bool((wrapped - whole * 1000 != 0).any())  # modulo 2**64, as the reader wraps
        far |= bool((np.abs(whole) > _MOST_MICROSECONDS).any())
    if fine and far:
        raise SourceAccessError(
            "INT96 timestamps finer than a microsecond stand beside others outside the years 1678 to 2261",
            where=where,
            remedy="Write the file with TIMESTAMP_MICROS.",
        )
    return nanoseconds if fine else microseconds


def _leaves(values: pa.Array) -> Iterator[pa.Array]:
    import pyarrow.types as types

    kind = values.type
    if types.is_timestamp(kind):
        yield values
    elif types.is_struct(kind):
        for child in values.flatten():
            yield from _leaves(child)
    elif types.is_map(kind):
        yield from _leaves(values.keys)
        yield from _leaves(values.items)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _leaves(arrow_compute().list_flatten(values))
