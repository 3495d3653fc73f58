"""Prints the rows of a Delta table as an independent reader has them: a JSON object a line, in no order.

lake.py duckdb|deltalake FOLDER
lake.py deltalake s3://BUCKET/PREFIX, with AWS_ENDPOINT and so on in the environment

Every value is a text that the source can be asked for as well: whole numbers and decimals as they are, real numbers as
the digits of their bytes, days and moments as their count from 1970, bytes as PostgreSQL's digits. A list is a list.
"""

import json
import os
import struct
import sys

import pyarrow as pa


def rows(reader: str, folder: str) -> pa.Table:
    if reader == "duckdb":
        import duckdb
        import duckdb_ext  # noqa: F401
        from pathlib import Path

        extensions = Path(list(duckdb_ext.__path__)[0]) / "extensions"
        connection = duckdb.connect()
        connection.load_extension(str(next(extensions.rglob("delta.duckdb_extension"))))
        connection.execute("set timezone = 'UTC'")
        return connection.execute("select * from delta_scan(?)", [folder]).arrow().read_all()
    from deltalake import DeltaTable

    return DeltaTable(folder).to_pyarrow_table()


def text(kind: pa.DataType, value):
    if value is None:
        return None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [text(kind.value_type, element) for element in value]
    if pa.types.is_boolean(kind):
        return "t" if value else "f"
    if pa.types.is_float32(kind):
        return "\\x" + struct.pack(">f", value).hex()
    if pa.types.is_float64(kind):
        return "\\x" + struct.pack(">d", value).hex()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "\\x" + value.hex()
    return format(value, "f") if pa.types.is_decimal(kind) else str(value)


def counted(kind: pa.DataType):
    """The type whose numbers count what this one holds."""
    if pa.types.is_timestamp(kind):
        assert kind.unit == "us", kind
        return pa.int64()
    if pa.types.is_date32(kind):
        return pa.int32()
    return kind


def plain(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind):
        values = plain(column.values)
        return pa.ListArray.from_arrays(column.offsets, values, mask=column.is_null() if column.null_count else None)
    return column if counted(kind) == kind else column.view(counted(kind))


def main() -> None:
    table = rows(sys.argv[1], sys.argv[2])
    for batch in table.combine_chunks().to_batches():
        columns = []
        for column in batch.columns:
            column = plain(column)
            columns.append([text(column.type, value) for value in column.to_pylist()])
        for row in zip(*columns):
            print(json.dumps(dict(zip(batch.schema.names, row)), ensure_ascii=False))


main()
sys.stdout.flush()
# Threads of a reader's that are left over may end the interpreter's own end.
os._exit(0)
