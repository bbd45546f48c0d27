"""Numbers of the Parquet format (parquet.thrift) that files taken as they are and files spliced from them share."""

from __future__ import annotations

MAGIC = b"PAR1"
BYTE_ARRAY, FIXED_LENGTH_BYTE_ARRAY = 6, 7
"""Physical types."""
REQUIRED = 0
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
