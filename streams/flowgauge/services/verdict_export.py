"""Verdicts of the archive as one file for other tools, batch by batch: an archive does not fit into memory."""

from enum import StrEnum
from typing import BinaryIO

import pyarrow as pa
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter

from flowgauge.processors.archive import SCHEMA
from flowgauge.services.archive_files import Report
from flowgauge.services.verdict_queries import VerdictQueries


class Format(StrEnum):
    """By the end of a file's name."""

    CSV = ".csv"
    PARQUET = ".parquet"


def export(queries: VerdictQueries, file: BinaryIO, format: Format, report: Report) -> int:
    """Write the verdicts that `queries` has chosen; how many they are. Parquet has the archive's own columns; CSV one
    for each field of a struct, and lists as JSON.
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
        return ", ".join(f'"{field.name}"."{part.name}" AS "{field.name}_{part.name}"' for part in field.type)
    return f'to_json("{field.name}") AS "{field.name}"' if pa.types.is_list(field.type) else f'"{field.name}"'
