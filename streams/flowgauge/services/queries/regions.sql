-- Where on the image rejects stand out: regions by squares of 64 pixels, the most frequent first.
SELECT
    line,
    (region.left + region.right) // 2 // 64 * 64 AS x,
    (region.top + region.bottom) // 2 // 64 * 64 AS y,
    count(*) AS regions,
    count(DISTINCT verdict_id) AS images,
    round(avg(region.score), 2) AS mean_score,
    round(max(region.score), 2) AS highest,
    arg_max(verdict_id, region.score) AS example
FROM (SELECT line, verdict_id, unnest(regions) AS region FROM verdicts WHERE decision = 'reject')
GROUP BY ALL
ORDER BY regions DESC, line, x, y
