-- Rejects and reviews by hour and line, as shares of the hour's images.
SELECT
    time_bucket(INTERVAL 1 HOUR, event_time) AS hour,
    line,
    count(*) AS images,
    count(*) FILTER (decision = 'reject') AS rejects,
    round(avg((decision = 'reject')::INT), 4) AS reject_share,
    round(avg((decision = 'review')::INT), 4) AS review_share
FROM verdicts
GROUP BY ALL
ORDER BY hour DESC, line
