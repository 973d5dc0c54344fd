"""Names of headers in any bytes. Kafka's protocol says that they are UTF-8, and no broker looks; both clients give up a
whole partition for one that is not, again and again, and whatever lies behind it is never read.
"""

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

_BEFORE_KEY = 4  # numbers that a record begins with: length, attributes, distances in time and offset


class _AnyNames:
    """A batch of records that spells what is no UTF-8 in a header's name as `?`."""

    _buffer: bytearray
    _pos: int

    def _read_msg(self, *given: Any) -> Any:
        try:
            return super()._read_msg(*given)  # type: ignore[misc]
        except UnicodeDecodeError:
            _spell_names(self._buffer, self._pos)
            return super()._read_msg(*given)  # type: ignore[misc]


class _BatchOfLog(_AnyNames, DefaultRecordBatch):  # type: ignore[misc]
    pass


def any_names_in_logs() -> None:
    """For kafka-python, in this process."""
    memory_records.DefaultRecordBatch = _BatchOfLog


def any_names_in_groups() -> None:
    """For aiokafka: its readers in C cannot be mended, so those in Python read, at some 20 microseconds a record."""
    from aiokafka.consumer import fetcher
    from aiokafka.record import default_records
    from aiokafka.record import memory_records as of_groups

    class BatchOfGroup(_AnyNames, default_records._DefaultRecordBatchPy):  # type: ignore[misc]
        pass

    of_groups.DefaultRecordBatch = BatchOfGroup
    fetcher.MemoryRecords = of_groups._MemoryRecordsPy


def _spell_names(buffer: bytearray, at: int) -> None:
    """In the record that begins `at`, in place, so that all lengths stay."""
    for _ in range(_BEFORE_KEY):
        _, at = decode_varint(buffer, at)
    for _ in ("key", "value"):
        length, at = decode_varint(buffer, at)
        at += max(0, length)
    headers, at = decode_varint(buffer, at)
    for _ in range(headers):
        length, at = decode_varint(buffer, at)
        name = buffer[at : at + length]
        try:
            name.decode()
        except UnicodeDecodeError:
            buffer[at : at + length] = bytes(byte if byte < 0x80 else ord("?") for byte in name)
        length, at = decode_varint(buffer, at + length)
        at += max(0, length)
