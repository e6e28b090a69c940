-- The audit trail. Whoever appends or prunes holds the lock on the chain's one row, so numbers are dense and in commit order.

-- name: lock_chain
SELECT n, mac, at FROM roost.audit_chain WHERE chain = 1 FOR UPDATE;

-- name: begin_chain
INSERT INTO roost.audit_chain (chain, n, mac, at) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING;

-- name: mac
SELECT mac FROM roost.audit WHERE n = $1;

-- name: append_records
WITH written AS (
    INSERT INTO roost.audit (
        n, at, actor, kind, action, outcome, address, request_id, purpose, user_id, collection, key, count, detail, mac
    )
    SELECT *
    FROM unnest(
        $4::bigint[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
        $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::text[], $18::bytea[]
    )
)
UPDATE roost.audit_chain SET n = $1, mac = $2, at = $3 WHERE chain = 1;

-- name: last_before
SELECT n, mac, at
FROM (SELECT n, mac, at FROM roost.audit ORDER BY n LIMIT $2) AS oldest
WHERE at < $1
ORDER BY n DESC
LIMIT 1;

-- name: delete_records
DELETE FROM roost.audit WHERE n <= $1;

-- name: set_checkpoint
UPDATE roost.audit_chain SET base = $1, base_mac = $2, seal = $3 WHERE chain = 1;

-- name: end
SELECT n, mac, at FROM roost.audit_chain WHERE chain = 1;

-- name: checkpoint
SELECT base, base_mac, seal FROM roost.audit_chain WHERE chain = 1 AND base IS NOT NULL;

-- name: first_since
-- Times never go back along the chain.
SELECT n FROM roost.audit WHERE at >= $1 ORDER BY at, n LIMIT 1;

-- name: records
SELECT n, at, actor, kind, action, outcome, address, request_id, purpose, user_id, collection, key, count, detail, mac
FROM roost.audit
WHERE n > $1 AND n <= $2
    AND ($4::text IS NULL OR user_id = $4) AND ($5::text IS NULL OR actor = $5)
    AND ($6::text IS NULL OR action = $6) AND ($7::text IS NULL OR outcome = $7)
ORDER BY n
LIMIT $3;

-- name: records_of_user
SELECT n, at, actor, kind, action, outcome, address, request_id, purpose, user_id, collection, key, count, detail, mac
FROM roost.audit
WHERE user_id = $4 AND n > $1 AND n <= $2
    AND ($5::text IS NULL OR actor = $5) AND ($6::text IS NULL OR action = $6) AND ($7::text IS NULL OR outcome = $7)
ORDER BY n
LIMIT $3;

-- name: records_of_actor
SELECT n, at, actor, kind, action, outcome, address, request_id, purpose, user_id, collection, key, count, detail, mac
FROM roost.audit
WHERE actor = $5 AND n > $1 AND n <= $2
    AND ($4::text IS NULL OR user_id = $4) AND ($6::text IS NULL OR action = $6) AND ($7::text IS NULL OR outcome = $7)
ORDER BY n
LIMIT $3;
