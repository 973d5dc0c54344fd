-- Verdicts that missed their line's deadline, by day and line, and how many seconds after capture verdicts came.
SELECT
    date,
    line,
    count(*) AS images,
    count(*) FILTER (late) AS late,
    round(avg(late::INT), 4) AS late_share,
    round(quantile_disc(epoch(scored_at) - epoch(event_time), 0.95), 3) AS p95_seconds,
    round(max(epoch(scored_at) - epoch(event_time)), 3) AS worst_seconds
FROM verdicts
GROUP BY ALL
ORDER BY date DESC, line
