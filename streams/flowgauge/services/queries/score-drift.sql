-- How the scores of each gauge move from day to day, standardised by its calibration: 0 is its median good image.
SELECT
    line,
    gauge_version,
    date,
    count(*) AS images,
    round(avg(standard_score), 3) AS mean,
    round(stddev_samp(standard_score), 3) AS deviation,
    round(quantile_disc(standard_score, 0.99), 3) AS p99,
    round(avg(standard_score) - first_value(avg(standard_score)) OVER gauge, 3) AS since_first_day
FROM verdicts
WHERE standard_score IS NOT NULL
GROUP BY line, gauge_version, date
WINDOW gauge AS (PARTITION BY line, gauge_version ORDER BY date)
ORDER BY line, date, gauge_version
