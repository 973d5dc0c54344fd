"""Verdicts of the archive as one file for other tools, batch by batch: an archive does not fit into memory."""

import re
from enum import StrEnum
from typing import BinaryIO

import pyarrow as pa
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter

from flowgauge.processors.archive import SCHEMA
from flowgauge.services.archive_files import Report
from flowgauge.services.verdict_queries import VerdictQueries

_FORMULA = r"^([=+@\t\r-])"


class Format(StrEnum):
    """By the end of a file's name."""

    CSV = ".csv"
    PARQUET = ".parquet"


def of_csv(text: str) -> str:
    """Text that a spreadsheet would take for a formula has ' before it, as spreadsheets themselves mark text: ids come
    from cameras, and a formula may fetch addresses.
    """
    return re.sub(_FORMULA, r"'\1", text)


def export(queries: VerdictQueries, file: BinaryIO, format: Format, report: Report) -> int:
    """Write the verdicts that `queries` has chosen; how many they are. Parquet has the archive's own columns; CSV one
    for each field of a struct, lists as JSON, and text as `of_csv` has it.
    """
    parquet = format is Format.PARQUET
    columns = ", ".join(f'"{field.name}"' if parquet else _flat(field) for field in SCHEMA)
    [[total]], _ = queries.ask("SELECT count(*) FROM verdicts").rows(1)
    found, done = queries.ask(f"SELECT {columns} FROM verdicts"), 0
    with ParquetWriter(file, SCHEMA, compression="zstd") if parquet else CSVWriter(file, found.schema) as writer:
        for batch in found.batches():
            report("exporting verdicts", done, total)
            writer.write_batch(batch.cast(SCHEMA) if parquet else batch)
            done += batch.num_rows
    report("exporting verdicts", total, total)
    return done


def _flat(field: pa.Field) -> str:
    if pa.types.is_struct(field.type):
        return ", ".join(_column(part, f'"{field.name}"."{part.name}"', f"{field.name}_") for part in field.type)
    return _column(field, f'"{field.name}"')


def _column(field: pa.Field, value: str, prefix: str = "") -> str:
    if pa.types.is_string(field.type):
        value = f"regexp_replace({value}, '{_FORMULA}', '''\\1')"
    elif pa.types.is_list(field.type):
        value = f"to_json({value})"
    return f'{value} AS "{prefix}{field.name}"'
