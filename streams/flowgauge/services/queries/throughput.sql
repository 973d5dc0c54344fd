-- Images by minute and line, the latest minute first, and the seconds from arrival to verdict.
SELECT
    time_bucket(INTERVAL 1 MINUTE, event_time) AS minute,
    line,
    count(*) AS images,
    round(avg(epoch(scored_at) - epoch(arrived_at)), 3) AS mean_seconds
FROM verdicts
GROUP BY ALL
ORDER BY minute DESC, line
