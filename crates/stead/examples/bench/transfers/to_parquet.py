"""Copies the flights of a PostgreSQL database into a Parquet file with duckdb, and says how many seconds it took."""

import sys
import time
from pathlib import Path

import duckdb
import duckdb_ext

source, into = sys.argv[1:]
extensions = Path(list(duckdb_ext.__path__)[0]) / "extensions"
connection = duckdb.connect()
connection.execute("set enable_progress_bar = false")
connection.load_extension(str(next(extensions.rglob("postgres_scanner.duckdb_extension"))))
# Rows may come in any order, so that all threads read and write at once.
connection.execute("set preserve_insertion_order = false")
connection.execute(f"attach '{source}' as source (type postgres, read_only)")
began = time.monotonic()
rows = connection.execute(f"copy source.public.flights to '{into}' (format parquet)").fetchone()[0]
print(time.monotonic() - began, rows)
