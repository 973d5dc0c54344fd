-- Every swap of a gauge, with the shares of reviews and rejects in the 24 hours before and after.
WITH hours AS (
    SELECT
        line,
        gauge_version,
        time_bucket(INTERVAL 1 HOUR, event_time) AS hour,
        min(event_time) AS first_at,
        count(*) AS images,
        count(*) FILTER (decision = 'review') AS reviews,
        count(*) FILTER (decision = 'reject') AS rejects
    FROM verdicts
    WHERE gauge_version IS NOT NULL
        AND trial_id IS NULL  -- a canary decides some images of a line that keeps its gauge
    GROUP BY ALL
),
swaps AS (
    SELECT line, gauge_version, first_at, lag(gauge_version) OVER (PARTITION BY line ORDER BY first_at) AS before
    FROM hours
    QUALIFY before <> gauge_version
)
SELECT
    swap.line,
    swap.first_at AS swapped_at,
    swap.before,
    swap.gauge_version AS after,
    round(sum(reviews) FILTER (hours.first_at < swap.first_at)
        / sum(images) FILTER (hours.first_at < swap.first_at), 4) AS reviews_before,
    round(sum(reviews) FILTER (hours.first_at >= swap.first_at)
        / sum(images) FILTER (hours.first_at >= swap.first_at), 4) AS reviews_after,
    round(sum(rejects) FILTER (hours.first_at < swap.first_at)
        / sum(images) FILTER (hours.first_at < swap.first_at), 4) AS rejects_before,
    round(sum(rejects) FILTER (hours.first_at >= swap.first_at)
        / sum(images) FILTER (hours.first_at >= swap.first_at), 4) AS rejects_after
FROM swaps AS swap
JOIN hours ON hours.line = swap.line
    AND hours.first_at >= swap.first_at - INTERVAL 24 HOURS
    AND hours.first_at < swap.first_at + INTERVAL 24 HOURS
GROUP BY ALL
ORDER BY swapped_at DESC
