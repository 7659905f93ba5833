WITH RECURSIVE idle AS MATERIALIZED (
    SELECT u.number_id FROM unnest($1::int[]) AS u(number_id)
    WHERE NOT EXISTS (
        SELECT FROM number_lease l JOIN worker w ON w.worker_id = l.worker_id AND NOT w.is_dead AND w.expires_at > now()
        WHERE l.number_id = u.number_id)
), turn AS (
    SELECT first.*, 1 AS place
    FROM idle
    CROSS JOIN LATERAL (
        SELECT w.number_id, w.lane, w.turn_group, w.wake_at FROM work w
        WHERE w.stage = 'ready' AND w.number_id = idle.number_id
        ORDER BY w.lane, w.turn_group, w.wake_at LIMIT 1
    ) first
    UNION ALL
    SELECT next.*, turn.place + 1
    FROM turn
    CROSS JOIN LATERAL (
        SELECT w.number_id, w.lane, w.turn_group, w.wake_at FROM work w
        WHERE w.stage = 'ready' AND w.number_id = turn.number_id
          AND (w.lane, w.turn_group) > (turn.lane, turn.turn_group)
        ORDER BY w.lane, w.turn_group, w.wake_at LIMIT 1
    ) next
    WHERE turn.place < $2
)
SELECT n.id AS "id!", a.tenant_id, n.business_number, sum(due.count)::bigint AS "count!"
FROM turn
JOIN business_number n ON n.id = turn.number_id
JOIN account a ON a.id = n.account_id
CROSS JOIN LATERAL (
    SELECT count(*) AS count
    FROM (SELECT FROM work w
          WHERE w.stage = 'ready' AND w.number_id = turn.number_id AND w.lane = turn.lane
            AND w.turn_group = turn.turn_group AND w.wake_at <= now()
          ORDER BY w.wake_at LIMIT $3) w
) due
WHERE turn.wake_at <= now() AND NOT EXISTS (SELECT FROM batch b WHERE b.batch_id = turn.turn_group AND b.state = 'planning')
GROUP BY n.id, a.tenant_id
