"""SQL over the archive: what the shipped queries answer, and that it reads the archive and nothing else."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import Decision, Region, Statistics, Verdict
from flowgauge.domain.ports import Objects
from flowgauge.local.objects import LocalObjects
from flowgauge.processors.archive import SCHEMA, Archive
from flowgauge.runtime.backend import Store
from flowgauge.runtime.worker import Worker
from flowgauge.s3.objects import S3Objects
from flowgauge.s3.settings import S3Settings
from flowgauge.services.archive_files import archive_files, compact
from flowgauge.services.verdict_queries import ALL, Chosen, VerdictQueries, _ArchiveFiles, named_queries
from tests.support.failing import Failing
from tests.support.servers import S3Address
from tests.support.shell import Shell
from tests.support.streaming import LINE, START, SetClock, append_verdicts, hash_bits, opened, verdict

HOURS = 50
REJECTS = (3, 4, 30)


def made(number: int) -> Verdict:
    """One an hour. The gauge is swapped after 24 hours; three are rejects with a region each; the last two look alike,
    and the first came late."""
    at = START + timedelta(hours=number)
    return verdict(
        number,
        captured_at=at,
        arrived_at=at,
        scored_at=at + timedelta(seconds=90 if number == 0 else 1),
        late=number == 0,
        decision=Decision.REJECT if number in REJECTS else Decision.REVIEW if number >= 40 else Decision.PASS,
        regions=(Region(left=60, top=0, right=80, bottom=20, score=7.5),) if number in REJECTS else (),
        gauge_version="fit-1" if number < 24 else "fit-2",
        subject=f"part-{number // 2}",
        statistics=Statistics(
            brightness=number / 100, contrast=0.1, focus=-1, fingerprint=f"{hash_bits(min(number, HOURS - 2)):016x}"
        ),
    )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    clock = SetClock()
    with opened(tmp_path_factory.mktemp("plant"), clock) as store:
        append_verdicts(store.log, [made(number) for number in range(HOURS)])
        worker = Worker(Archive(store, 4), store.log, clock, 64)
        worker.step()
        worker.flush()
        clock.advance(2 * 86_400)
        compact(store, lambda what, done, total: None)
        names = archive_files(store.objects)
        assert {name.split("/")[0] for name in names} == {"verdicts", "compacted"}, "both kinds are read below"
        yield store


def ask(objects: Objects, sql: str, chosen: Chosen = ALL, **parameters: str) -> list[dict[str, Any]]:
    with VerdictQueries(objects, chosen, threads=1) as queries:
        result = queries.ask(sql, parameters)
        rows, _ = result.rows(10_000)
        return [dict(zip(result.schema.names, row, strict=True)) for row in rows]


def named(store: Store, name: str, chosen: Chosen = ALL, **parameters: str) -> list[dict[str, Any]]:
    return ask(store.objects, named_queries()[name].sql, chosen, **parameters)


def test_the_view_has_every_field_of_a_verdict_and_its_time(plant: Store) -> None:
    [row] = ask(plant.objects, f"SELECT * FROM verdicts WHERE image_id = '{made(30).image_id}'")
    assert (row.pop("date"), row.pop("event_time")) == (made(30).event_time.date(), made(30).event_time)
    assert Verdict.model_validate(row) == made(30)
    assert list(row) == SCHEMA.names


def test_rejects_are_counted_by_the_hour(plant: Store) -> None:
    rows = named(plant, "reject-rate")
    assert [row["hour"] for row in rows] == [made(number).event_time for number in range(HOURS)][::-1]
    assert [row["rejects"] for row in rows][::-1] == [int(number in REJECTS) for number in range(HOURS)]


def test_late_verdicts_are_counted_by_the_day(plant: Store) -> None:
    first = named(plant, "late")[-1]
    assert (first["images"], first["late"], first["worst_seconds"]) == (18, 1, 90.0)


def test_scores_are_followed_by_gauge(plant: Store) -> None:
    rows = named(plant, "score-drift")
    assert [(row["gauge_version"], row["images"]) for row in rows] == [
        ("fit-1", 18),
        ("fit-1", 6),
        ("fit-2", 18),
        ("fit-2", 8),
    ]
    assert {row["mean"] for row in rows} == {0.0}


def test_a_swap_shows_what_it_changed(plant: Store) -> None:
    [swap] = named(plant, "swaps")
    assert (swap["before"], swap["after"], swap["swapped_at"]) == ("fit-1", "fit-2", made(24).event_time)
    assert (swap["reviews_before"], swap["reviews_after"]) == (0.0, round(8 / 24, 4))
    assert (swap["rejects_before"], swap["rejects_after"]) == (round(2 / 24, 4), round(1 / 24, 4))


def test_regions_are_gathered_where_they_lie(plant: Store) -> None:
    [square] = named(plant, "regions")
    assert (square["x"], square["y"], square["regions"], square["highest"]) == (64, 0, 3, 7.5)


def test_images_that_look_alike_are_found(plant: Store) -> None:
    [found] = named(plant, "duplicates")
    assert (found["line"], found["images"]) == (LINE, 2)
    assert found["fingerprint"] == made(HOURS - 1).statistics.fingerprint
    assert found["first_at"] == made(HOURS - 2).event_time


def test_a_rejected_part_comes_with_all_its_images(plant: Store) -> None:
    found = {row["subject"]: (row["images"], row["rejects"]) for row in named(plant, "parts")}
    assert found == {"part-1": (2, 1), "part-2": (2, 1), "part-15": (2, 1)}


def test_throughput_counts_minutes(plant: Store) -> None:
    rows = named(plant, "throughput")
    assert len(rows) == HOURS
    assert (rows[0]["minute"], rows[0]["images"], rows[0]["mean_seconds"]) == (made(HOURS - 1).event_time, 1, 1.0)


def test_light_has_percentiles(plant: Store) -> None:
    rows = {(row["gauge_version"], row["statistic"]): row for row in named(plant, "light")}
    assert rows["fit-1", "brightness"]["p1"] == 0.0
    assert rows["fit-1", "brightness"]["p99"] == 0.23
    assert rows["fit-2", "contrast"]["median"] == 0.1


@pytest.mark.parametrize("given", [made(7).image_id, str(made(7).verdict_id)])
def test_a_verdict_is_looked_up_by_either_id(plant: Store, given: str) -> None:
    [row] = named(plant, "lookup", id=given)
    assert row["event_time"] == made(7).event_time


def test_ten_queries_are_shipped_each_with_its_words() -> None:
    found = named_queries()
    assert len(found) == 10
    assert all(
        query.text.endswith((".", "...")) and query.sql.startswith(f"-- {query.text}") for query in found.values()
    )


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (Chosen(line="other"), []),
        (Chosen(line=LINE, since=made(20).event_time, until=made(23).event_time), [20, 21, 22]),
        (Chosen(until=made(2).event_time), [0, 1]),
        (Chosen(since=made(48).event_time), [48, 49]),
        (Chosen(since=datetime(2030, 1, 1, tzinfo=UTC)), []),
        (Chosen(decisions=(Decision.REJECT,)), list(REJECTS)),
    ],
)
def test_what_is_chosen_is_all_that_the_view_holds(plant: Store, chosen: Chosen, numbers: Sequence[int]) -> None:
    rows = ask(plant.objects, "SELECT image_id FROM verdicts ORDER BY event_time", chosen)
    assert [row["image_id"] for row in rows] == [made(number).image_id for number in numbers]


def test_a_clock_that_is_off_counts_by_arrival(plant: Store, tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    early = made(0).model_copy(update={"captured_at": START - timedelta(days=400), "clock_off": True})
    write(objects, [early])
    assert ask(objects, "SELECT event_time FROM verdicts", Chosen(since=START)) == [{"event_time": START}]


def test_only_the_days_of_a_span_are_read(plant: Store) -> None:
    asked: list[str] = []

    class Watched(LocalObjects):
        def get(self, name: str, at_most: int | None = None) -> bytes:
            asked.append(name)
            return super().get(name, at_most)

        def get_range(self, name: str, start: int, length: int) -> bytes:
            asked.append(name)
            return super().get_range(name, start, length)

    objects = Watched(Path(plant.uri) / "objects")
    count = "SELECT count(score) AS n FROM verdicts"
    assert ask(
        objects, count, Chosen(since=datetime(2026, 3, 2, tzinfo=UTC), until=datetime(2026, 3, 2, 5, tzinfo=UTC))
    )
    assert asked
    assert all("/date=2026-03-02/" in name for name in asked)
    asked.clear()
    assert ask(objects, f"{count} WHERE date = '2026-03-03'") == [{"n": 8}]
    # DuckDB looks into one file for what columns there are
    assert len({name for name in asked if "/date=2026-03-03/" not in name}) <= 1


def test_an_archive_without_verdicts_is_asked_as_any_other(tmp_path: Path) -> None:
    assert ask(LocalObjects(tmp_path), "SELECT count(*) AS n, min(event_time) AS at FROM verdicts") == [
        {"n": 0, "at": None}
    ]


def write(objects: Objects, verdicts: Sequence[Verdict], drop: Sequence[str] = (), offset: int = 0) -> None:
    """A file of the archive, as it would have been before `drop` were added."""
    rows = [each.model_dump() | {"verdict_id": str(each.verdict_id)} for each in verdicts]
    table = pa.Table.from_pylist(rows, schema=SCHEMA).drop_columns(list(drop))
    if drop:
        taken = table["statistics"].combine_chunks()
        fields = ["brightness", "contrast", "focus"]
        older = pa.StructArray.from_arrays([taken.field(name) for name in fields], names=fields)
        table = table.set_column(table.schema.get_field_index("statistics"), "statistics", older)
    buffer = BytesIO()
    pq.write_table(table, buffer)
    day = verdicts[0].event_time.date()
    objects.put(f"verdicts/date={day}/0-{offset:012d}.parquet", buffer.getvalue())


@pytest.mark.parametrize("old_first", [True, False])
def test_files_of_several_versions_are_one_view(tmp_path: Path, old_first: bool) -> None:
    objects = LocalObjects(tmp_path)
    dropped = ["clock_off", "arrived_at", "subject", "late", "use_for_training"]
    write(objects, [made(5)], dropped, offset=0 if old_first else 8)
    write(objects, [made(6)], offset=4)
    fields = "subject, late, clock_off, use_for_training, statistics.fingerprint AS print"
    old, new = ask(objects, f"SELECT {fields} FROM verdicts ORDER BY event_time")
    assert old == {"subject": None, "late": False, "clock_off": False, "use_for_training": True, "print": None}
    assert (new["subject"], new["print"]) == ("part-3", made(6).statistics.fingerprint)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY verdicts TO '{folder}/out.parquet'",
        "WITH x AS (COPY (SELECT 1) TO '{folder}/out.csv') SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1) TO 'archive://verdicts/out.csv') SELECT * FROM x",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('file:///etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM '{folder}/secret.parquet'",
        "SELECT * FROM read_parquet('{folder}/secret.parquet')",
        "SELECT * FROM read_parquet('archive://secret.parquet')",
        "SELECT * FROM read_parquet('archive://../secret.parquet')",
        "SELECT * FROM read_parquet('archive://**')",
        "SELECT * FROM read_json('http://localhost:1/x')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM names",  # of our own Python
        "ATTACH '{folder}/other.db'",
        "ATTACH ':memory:' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET enable_external_access",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW verdicts",
        "EXPORT DATABASE '{folder}/all'",
        "SELECT 1; SELECT 2",
        "",
        "SELEC 1",
        "SELECT nothing FROM verdicts",
        "SELECT $id",
        "SELECT list(verdicts) || 1 FROM verdicts",
    ],
)  # fmt: skip
def test_sql_reads_the_archive_and_nothing_else(plant: Store, tmp_path: Path, sql: str) -> None:
    folder = Path(plant.uri) / "objects"
    pq.write_table(pa.table({"password": ["hunter2"]}), tmp_path / "secret.parquet")
    pq.write_table(pa.table({"password": ["hunter2"]}), folder / "secret.parquet")
    with VerdictQueries(plant.objects, threads=1) as queries, pytest.raises(UserError) as raised:
        queries.ask(sql.format(folder=tmp_path)).rows(10)
    assert "Traceback" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.parquet"]
    assert not list(plant.objects.names("verdicts/out"))


def test_a_mistake_is_reported_in_duckdbs_words(plant: Store) -> None:
    with VerdictQueries(plant.objects) as queries:
        with pytest.raises(UserError, match=r'Referenced column "scores" not found.*\n.*"score"'):
            queries.ask("SELECT scores FROM verdicts")
        assert queries.ask("SELECT 1").rows(1) == ([[1]], False), "and the next query is answered"


def test_threads_that_read_one_file_do_not_disturb_each_other(plant: Store, tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    rows = [made(number % HOURS).model_copy(update={"score": float(number)}) for number in range(20_000)]
    table = pa.Table.from_pylist(
        [each.model_dump() | {"verdict_id": str(each.verdict_id)} for each in rows], schema=SCHEMA
    )
    for file in range(4):
        buffer = BytesIO()
        pq.write_table(table, buffer, row_group_size=500)
        objects.put(f"verdicts/date=2026-03-01/{file}-000000000000.parquet", buffer.getvalue())
    with VerdictQueries(objects, threads=8) as queries:
        for _ in range(5):
            [[total, highest]], _ = queries.ask("SELECT sum(score), max(image_id) FROM verdicts").rows(1)
            assert (total, highest) == (4 * sum(range(20_000)), made(HOURS - 1).image_id)


@pytest.mark.parametrize("method", ["get", "get_range"])
def test_a_store_that_is_away_is_named_as_such(plant: Store, method: str) -> None:
    failing = Failing(plant.objects, [method], times=0)
    with VerdictQueries(failing) as queries:
        failing.left = 1
        with pytest.raises(Unavailable):
            queries.ask("SELECT sum(score) FROM verdicts").rows(1)
        assert failing.left == 0


def test_a_file_that_is_rewritten_meanwhile_gives_no_half_answer(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    write(objects, [made(1)])
    [name] = archive_files(objects)
    files = _ArchiveFiles(objects, [name])
    files._open(f"archive://{name}")
    files._get.cache_clear()  # as when it makes room for others
    write(objects, [made(1), made(2), made(3)])
    with pytest.raises(FileNotFoundError):
        files._open(f"archive://{name}")
    assert isinstance(files.fault, UserError)


def test_an_archive_in_a_bucket_is_asked_alike(plant: Store, s3_address: S3Address) -> None:
    keys = S3Settings(
        endpoint=s3_address.endpoint, access_key=s3_address.access_key, secret_key=SecretStr(s3_address.secret_key)
    )
    with closing(S3Objects(keys, f"queries-{uuid4().hex}")) as bucket:
        bucket.ensure_bucket()
        for prefix in ("verdicts/", "compacted/"):
            for name in plant.objects.names(prefix):
                bucket.put(name, plant.objects.get(name))
        assert archive_files(bucket) == archive_files(plant.objects)
        for query in named_queries().values():
            given = {"id": made(7).image_id} if "$id" in query.sql else {}
            assert ask(bucket, query.sql, ALL, **given) == ask(plant.objects, query.sql, ALL, **given), query.name


@pytest.fixture
def shell(flowgauge: Shell, monkeypatch: pytest.MonkeyPatch, plant: Store) -> Shell:
    monkeypatch.setenv("FLOWGAUGE_STORE", plant.uri)
    return flowgauge


def test_results_come_as_table_csv_and_json(shell: Shell) -> None:
    query = (
        "verdicts",
        "query",
        "SELECT image_id, regions, score, 'a\"b,c' AS text FROM verdicts WHERE decision = 'reject'",
    )
    table = shell(*query)
    assert (table.code, table.err) == (0, "")
    assert made(3).image_id in table.out
    rows = shell(*query, "--json").json
    assert rows[0] == {
        "image_id": made(3).image_id,
        "regions": [{"left": 60, "top": 0, "right": 80, "bottom": 20, "score": 7.5}],
        "score": 100.0,
        "text": 'a"b,c',
    }
    box = '"[{""left"": 60, ""top"": 0, ""right"": 80, ""bottom"": 20, ""score"": 7.5}]"'
    assert shell(*query, "--csv").out.splitlines()[1] == f'{made(3).image_id},{box},100.0,"a""b,c"'


FORMULAS = ("=1+1", "+1", "-1", "@a", "\tx", "\rx")


def test_text_of_a_csv_is_no_formula_and_numbers_stay_numbers(shell: Shell, tmp_path: Path) -> None:
    values = ", ".join(f"'{text}'" for text in FORMULAS)
    done = shell("verdicts", "query", f"SELECT unnest([{values}]) AS text, -1 AS number, 'a=b' AS other", "--csv")
    _, *rows = csv.reader(StringIO(done.out, newline=""))
    assert rows == [[f"'{text}", "-1", "a=b"] for text in FORMULAS]
    with opened(tmp_path / "plant", SetClock()) as store:
        append_verdicts(
            store.log,
            [made(number).model_copy(update={"image_id": text}) for number, text in enumerate(FORMULAS)],
        )
        worker = Worker(Archive(store, 4), store.log, SetClock(), 64)
        worker.step()
        worker.flush()
    assert shell("verdicts", "export", tmp_path / "all.csv", "--store", tmp_path / "plant").code == 0
    exported = list(csv.DictReader(StringIO((tmp_path / "all.csv").read_bytes().decode(), newline="")))
    assert sorted(row["image_id"] for row in exported) == sorted(f"'{text}" for text in FORMULAS)
    assert {float(row["statistics_focus"]) for row in exported} == {-1}


def test_control_characters_of_a_csv_reach_a_file_and_no_terminal(plant: Store) -> None:
    command = [sys.executable, "-m", "flowgauge.cli", "verdicts", "query", "SELECT chr(27) || '[2J' AS a", "--csv"]
    piped = subprocess.run([*command, "--store", plant.uri], capture_output=True, timeout=120, check=True)
    assert piped.stdout == b"a\n\x1b[2J\n"
    ours, theirs = os.openpty()
    with closing(os.fdopen(ours, "rb", buffering=0)) as terminal, closing(os.fdopen(theirs, "wb")) as its_stdout:
        subprocess.run([*command, "--store", plant.uri], stdout=its_stdout, timeout=120, check=True)
        assert terminal.read(100) == b"a\r\n\\x1b[2J\r\n"


def test_what_a_limit_cuts_is_said(shell: Shell) -> None:
    cut = shell("verdicts", "query", "SELECT * FROM verdicts", "--limit", 3, "--json")
    assert len(cut.json) == 3
    assert "first 3 rows of more" in cut.err
    assert shell("verdicts", "query", "SELECT * FROM verdicts", "--limit", HOURS, "--json").err == ""


def test_values_that_json_lacks_are_spelled(shell: Shell) -> None:
    values = (
        "sum(schema_version) AS s, 1.5::DECIMAL(4, 2) AS d, 'nan'::DOUBLE AS n, INTERVAL 1 HOUR AS i, max(date) AS t"
    )
    [row] = shell("verdicts", "query", f"SELECT {values} FROM verdicts", "--json").json
    assert (row["s"], row["d"], row["n"], row["t"]) == (2 * HOURS, 1.5, None, "2026-03-03")
    assert row["i"] == [0, 0, 3_600_000_000_000], "months, days and nanoseconds"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query",), "written, or named"),
        (("query", "SELECT 1", "--named", "late"), "written, or named"),
        (("query", "--named", "nothing"), "reject-rate"),
        (("query", "--named", "lookup"), "Add --param id=VALUE."),
        (("query", "--named", "lookup", "--param", "id"), "NAME=VALUE"),
        (("query", "SELECT 1", "--csv", "--json"), "printed once"),
        (("query", "SELECT 1", "--memory", "much"), "4GiB"),
        (("query", "SELECT 1", "--since", "0001-01-01T00:00+14:00"), "is no time"),
        (("query", "SELECT 1", "--line", "no/line"), "cannot name a line"),
        (("export", "out.txt"), "neither CSV nor Parquet"),
        (("export", "nowhere/out.csv"), "no place for a file"),
    ],
)
def test_a_mistake_is_named(shell: Shell, arguments: Sequence[str], said: str) -> None:
    done = shell("verdicts", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_export_of_a_span_without_time_leaves_the_file_as_it_is(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("kept")
    done = shell("verdicts", "export", out, "--since", "2026-12-01", "--until", "2026-11-01")
    assert done.code == 2
    assert "--until" in done.err
    assert out.read_text() == "kept"


def test_the_shipped_queries_are_listed(shell: Shell) -> None:
    assert [row["name"] for row in shell("verdicts", "queries", "--json").json] == list(named_queries())
    assert all(name in shell("verdicts", "queries").out for name in named_queries())


def test_verdicts_are_exported(shell: Shell, tmp_path: Path) -> None:
    whole, part = tmp_path / "all.parquet", tmp_path / "rejects.csv"
    assert shell("verdicts", "export", whole).code == 0
    table = pq.read_table(whole)
    assert table.schema.equals(SCHEMA)
    kept = sorted((Verdict.model_validate(row) for row in table.to_pylist()), key=lambda each: each.event_time)
    assert kept == [made(number) for number in range(HOURS)]
    done = shell("verdicts", "export", part, "--decision", "reject", "--since", "2026-03-02")
    assert "1 verdicts" in done.out
    head, row = part.read_text().splitlines()
    assert "statistics_fingerprint" in head
    assert made(30).image_id in row
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet", "rejects.csv"]
