"""accord's command with chunks of few rows, as large data sets have them."""

from __future__ import annotations

from accord.cli import main
from accord.learn.offline import reference_cache, rows
from accord.lm.tokens import encode_chunks

if __name__ == "__main__":
    encode_chunks.CHUNK_RECORDS = 3
    rows.MIN_RECORDS = 4
    reference_cache.SHARD_ROWS = 3
    main()
