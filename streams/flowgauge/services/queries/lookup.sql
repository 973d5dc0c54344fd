-- The verdicts of one image, by its id or the verdict's: --param id=...
-- two searches, for Parquet's Bloom filters answer one column at a time
WITH found AS (
    SELECT * FROM verdicts WHERE verdict_id = $id
    UNION ALL
    SELECT * FROM verdicts WHERE image_id = $id AND verdict_id <> $id
)
SELECT
    event_time,
    line,
    image_id,
    subject,
    decision,
    score,
    threshold,
    gauge_version,
    reasons,
    image_uri,
    heatmap_uri,
    verdict_id,
    source
FROM found
ORDER BY event_time
