-- Parts (subjects) of which an image was rejected, with all their images: one bad view, or all of them.
WITH rejected AS (SELECT DISTINCT line, subject FROM verdicts WHERE decision = 'reject' AND subject IS NOT NULL)
SELECT
    line,
    subject,
    count(*) AS images,
    count(*) FILTER (decision = 'reject') AS rejects,
    count(*) FILTER (decision = 'review') AS reviews,
    round(max(standard_score), 3) AS highest,
    max(event_time) AS last_at
FROM verdicts
SEMI JOIN rejected USING (line, subject)
GROUP BY ALL
ORDER BY rejects DESC, highest DESC, subject
