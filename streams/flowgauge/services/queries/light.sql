-- Percentiles of brightness, contrast and focus by line and gauge: what a line's images look like, and what moved.
WITH gauges AS (
    SELECT
        line,
        gauge_version,
        min(event_time) AS first_at,
        count(*) AS images,
        [
            {name: 'brightness', p: quantile_disc(statistics.brightness, [0.01, 0.5, 0.99])},
            {name: 'contrast', p: quantile_disc(statistics.contrast, [0.01, 0.5, 0.99])},
            {name: 'focus', p: quantile_disc(statistics.focus, [0.01, 0.5, 0.99])}
        ] AS statistics
    FROM verdicts
    GROUP BY line, gauge_version
)
SELECT
    line,
    gauge_version,
    images,
    statistic.name AS statistic,
    round(statistic.p[1], 4) AS p1,
    round(statistic.p[2], 4) AS median,
    round(statistic.p[3], 4) AS p99
FROM (SELECT *, unnest(statistics) AS statistic FROM gauges)
ORDER BY line, first_at, statistic.name
