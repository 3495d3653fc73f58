"""Prints the rows of a file as an independent reader has them: a JSON array of texts a line.

read.py duckdb|pyarrow csv|arrow|parquet FILE [count]

With `count` how many rows there are instead, and in how many groups or batches they lie.
"""

import json
import os
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet


def of_duckdb(form: str, path: str) -> pa.Table:
    import duckdb

    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    if form == "arrow":
        rows = pa.ipc.open_stream(path)  # noqa: F841
        return connection.execute("select * from rows").arrow().read_all()
    read = {"csv": "read_csv(?, header = true, all_varchar = true, allow_quoted_nulls = false)", "parquet": "read_parquet(?)"}[form]
    return connection.execute(f"select * from {read}", [path]).arrow().read_all()


def of_pyarrow(form: str, path: str) -> pa.Table:
    if form == "arrow":
        return pa.ipc.open_stream(path).read_all()
    if form == "parquet":
        return pa.parquet.read_table(path)
    names = open(path).readline().strip().split(",")
    convert = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=True,
        null_values=[""], quoted_strings_can_be_null=False)
    return pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=convert)


def text(value):
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list):
        return [text(element) for element in value]
    return value if value is None else str(value)


def main() -> None:
    reader, form, path = sys.argv[1:4]
    if sys.argv[4:] == ["count"]:
        if form == "parquet":
            file = pa.parquet.ParquetFile(path)
            print(file.metadata.num_rows, file.num_row_groups)
        else:
            batches = list(pa.ipc.open_stream(path))
            print(sum(batch.num_rows for batch in batches), len(batches))
        return
    table = {"duckdb": of_duckdb, "pyarrow": of_pyarrow}[reader](form, path)
    for row in zip(*(column.to_pylist() for column in table.columns)):
        print(json.dumps([text(value) for value in row], ensure_ascii=False))


main()
sys.stdout.flush()
# Threads of a reader's that are left over may end the interpreter's own end.
os._exit(0)
