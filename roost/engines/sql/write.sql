-- The write side: one transaction runs lock_heads, create_heads (new users), load_*, append_answers, append.
-- Locks are taken in the same order by everyone: users by (lane, user_id), then lanes.

-- name: lock_heads
SELECT u.user_id, u.seq, u.floor, u.created_at, u.updated_at, u.counts
FROM unnest($1::integer[], $2::text[]) AS q (lane, user_id)
JOIN roost.users u ON u.lane = q.lane AND u.user_id = q.user_id
ORDER BY u.lane, u.user_id
FOR UPDATE OF u;

-- name: create_heads
INSERT INTO roost.users (lane, user_id, seq, floor, created_at, updated_at, counts)
SELECT q.lane, q.user_id, 0, 0, $3, $3, '{}'
FROM unnest($1::integer[], $2::text[]) AS q (lane, user_id)
ORDER BY q.lane, q.user_id COLLATE "C"
ON CONFLICT (lane, user_id) DO NOTHING
RETURNING user_id;

-- name: let_go
ROLLBACK AND CHAIN;

-- name: drop_heads
DELETE FROM roost.users u
USING unnest($1::integer[], $2::text[]) AS q (lane, user_id)
WHERE u.lane = q.lane AND u.user_id = q.user_id AND u.seq = 0;

-- name: load_documents
SELECT d.user_id, d.collection, d.key, d.version, d.value, d.updated_at
FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[]) AS q (lane, user_id, collection, key)
JOIN roost.documents d
    ON d.lane = q.lane AND d.user_id = q.user_id AND d.collection = q.collection AND d.key = q.key;

-- name: load_answers
SELECT a.user_id, a.key, a.fingerprint, a.answer, a.at
FROM unnest($1::integer[], $2::text[], $3::text[]) AS q (lane, user_id, key)
JOIN roost.answers a ON a.lane = q.lane AND a.user_id = q.user_id AND a.key = q.key;

-- name: load_events
SELECT e.user_id, e.seq, e.kind, e.collection, e.key, e.value, e.at, e.actor, e.device, e.mutation
FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS q (lane, user_id, seq)
JOIN roost.events e ON e.lane = q.lane AND e.user_id = q.user_id AND e.seq = q.seq;

-- name: append_answers
INSERT INTO roost.answers (lane, user_id, key, fingerprint, answer, at)
SELECT * FROM unnest($1::integer[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::timestamptz[])
ON CONFLICT (lane, user_id, key)
DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at;

-- name: append
-- Heads, documents, lanes and events in one round trip. `step` is an event's place among the new ones of its lane;
-- `last` tells the events that are the last of their documents. Counts are NULL where they stay as they are.
WITH appended AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $6::integer[], $7::text[], $8::bigint[], $9::integer[], $10::boolean[], $11::text[], $12::text[], $13::text[],
        $14::bytea[], $15::text[], $16::text[], $17::bigint[], $18::timestamptz[]
    ) AS a (lane, user_id, seq, step, last, kind, collection, key, value, actor, device, mutation, at)
),
heads AS (
    UPDATE roost.users u
    SET seq = q.seq, updated_at = q.updated_at, counts = coalesce(q.counts::jsonb, u.counts)
    FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[])
        AS q (lane, user_id, seq, updated_at, counts)
    WHERE u.lane = q.lane AND u.user_id = q.user_id
),
documents AS (
    INSERT INTO roost.documents (lane, user_id, collection, key, version, value, updated_at)
    SELECT lane, user_id, collection, key, seq, value, at FROM appended WHERE last
    ON CONFLICT (lane, user_id, collection, key)
    DO UPDATE SET version = excluded.version, value = excluded.value, updated_at = excluded.updated_at
),
locked AS MATERIALIZED (
    SELECT lane, pos FROM roost.lanes WHERE lane = ANY ($19::integer[]) ORDER BY lane FOR UPDATE
),
advanced AS (
    UPDATE roost.lanes l
    SET pos = k.pos + q.steps
    FROM locked k
    JOIN unnest($19::integer[], $20::integer[]) AS q (lane, steps) ON q.lane = k.lane
    WHERE l.lane = k.lane
)
INSERT INTO roost.events
    (lane, user_id, seq, pos, kind, collection, key, value, actor, device, mutation, at)
SELECT
    a.lane, a.user_id, a.seq, k.pos + a.step, a.kind, a.collection, a.key, a.value, a.actor, a.device, a.mutation, a.at
FROM appended a
JOIN locked k ON k.lane = a.lane;

-- name: forget_answers
DELETE FROM roost.answers a
USING (SELECT lane, user_id, key FROM roost.answers WHERE at < $1 ORDER BY at LIMIT $2) AS old
WHERE a.lane = old.lane AND a.user_id = old.user_id AND a.key = old.key AND a.at < $1;
