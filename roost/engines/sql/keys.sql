-- Users' keys, the key-encryption keys that wrap them, and sealing anew. Whoever adds a wrapped key locks its KEK's row
-- FOR SHARE, so that it cannot retire before that is committed.

-- name: load_keys
SELECT k.user_id, k.generation, k.kek, k.wrapped
FROM unnest($1::integer[], $2::text[]) AS q (lane, user_id)
JOIN roost.user_keys k ON k.lane = q.lane AND k.user_id = q.user_id;

-- name: add_keys
WITH current AS MATERIALIZED (
    SELECT kek FROM roost.keks WHERE kek = $1 AND state <> 'retiring' FOR SHARE
),
added AS (
    INSERT INTO roost.user_keys (lane, user_id, generation, kek, wrapped, outdated)
    SELECT q.lane, q.user_id, q.generation, c.kek, q.wrapped, q.generation = 0
    FROM current c
    CROSS JOIN unnest($2::integer[], $3::text[], $4::integer[], $5::bytea[]) AS q (lane, user_id, generation, wrapped)
    ORDER BY q.lane, q.user_id COLLATE "C"
    ON CONFLICT (lane, user_id, generation) DO NOTHING
    RETURNING user_id
)
SELECT c.kek, ARRAY(SELECT user_id FROM added) AS added FROM current c;

-- name: raise_generations
WITH newest AS MATERIALIZED (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::integer[]) AS q (lane, user_id, generation)
),
older AS (
    UPDATE roost.user_keys k
    SET outdated = true
    FROM newest n
    WHERE k.lane = n.lane AND k.user_id = n.user_id AND k.generation < n.generation AND NOT k.outdated
)
UPDATE roost.users u
SET generation = n.generation
FROM newest n
WHERE u.lane = n.lane AND u.user_id = n.user_id;

-- name: keks
SELECT kek, state, check_value, created_at FROM roost.keks ORDER BY created_at, kek;

-- name: begin_first_kek
INSERT INTO roost.keks (kek, state, check_value, created_at)
SELECT $1, $2, $3, $4
WHERE NOT EXISTS (SELECT FROM roost.keks) AND NOT EXISTS (SELECT FROM roost.user_keys)
ON CONFLICT DO NOTHING
RETURNING kek;

-- name: retire_kek
UPDATE roost.keks SET state = 'retiring' WHERE kek = $1 AND state = 'current' RETURNING kek;

-- name: begin_kek
INSERT INTO roost.keks (kek, state, check_value, created_at) VALUES ($1, $2, $3, $4);

-- name: adopted
UPDATE roost.keks SET state = 'current' WHERE kek = $1 AND state = 'adopting';

-- name: unvouched
-- A window of users, and which of them have no key. Of those who are erased there is nothing to vouch for.
SELECT
    u.user_id,
    u.erased_at IS NULL
        AND NOT EXISTS (SELECT FROM roost.user_keys k WHERE k.lane = u.lane AND k.user_id = u.user_id) AS unvouched
FROM (
    SELECT lane, user_id, erased_at FROM roost.users WHERE (lane, user_id) > ($1, $2) ORDER BY lane, user_id LIMIT $3
) AS u
ORDER BY u.lane, u.user_id;

-- name: wrapped_by
SELECT user_id, generation, kek, wrapped
FROM roost.user_keys
WHERE kek = $1
ORDER BY lane, user_id, generation
LIMIT $2;

-- name: count_keys
SELECT count(*) FROM roost.user_keys WHERE kek = $1;

-- name: rewrap
WITH current AS MATERIALIZED (
    SELECT kek FROM roost.keks WHERE kek = $2 AND state <> 'retiring' FOR SHARE
),
locked AS MATERIALIZED (
    SELECT k.lane, k.user_id, k.generation, c.kek, q.wrapped
    FROM current c
    CROSS JOIN unnest($3::integer[], $4::text[], $5::integer[], $6::bytea[]) AS q (lane, user_id, generation, wrapped)
    JOIN roost.user_keys k ON k.lane = q.lane AND k.user_id = q.user_id AND k.generation = q.generation
    WHERE k.kek = $1
    ORDER BY k.lane, k.user_id, k.generation
    FOR UPDATE OF k
),
rewrapped AS (
    UPDATE roost.user_keys k
    SET kek = l.kek, wrapped = l.wrapped
    FROM locked l
    WHERE k.lane = l.lane AND k.user_id = l.user_id AND k.generation = l.generation
)
SELECT kek FROM current;

-- name: end_kek
DELETE FROM roost.keks
WHERE kek = $1 AND state = 'retiring' AND NOT EXISTS (SELECT FROM roost.user_keys WHERE kek = $1);

-- name: outdated
SELECT DISTINCT lane, user_id
FROM roost.user_keys
WHERE outdated AND (lane, user_id) > ($1, $2)
ORDER BY lane, user_id
LIMIT $3;

-- name: lock_generation
SELECT generation, seq FROM roost.users WHERE lane = $1 AND user_id = $2 AND erased_at IS NULL FOR UPDATE;

-- The rows of one user, after one of them: the three take the same arguments, and each looks at what orders its rows.

-- name: documents_rows
SELECT collection, key, version, value, siblings
FROM roost.documents
WHERE lane = $1 AND user_id = $2 AND (collection, key) > ($3, $4) AND $5::bigint IS NOT NULL AND version <= $6
ORDER BY collection, key
LIMIT $7;

-- name: events_rows
SELECT collection, key, seq, value, edits
FROM roost.events
WHERE lane = $1 AND user_id = $2 AND $3::text IS NOT NULL AND $4::text IS NOT NULL AND seq > $5 AND seq <= $6
ORDER BY seq
LIMIT $7;

-- name: answers_rows
SELECT user_id AS collection, key, (extract(epoch FROM at) * 1000000)::bigint AS seq, answer, fingerprint
FROM roost.answers
WHERE lane = $1 AND user_id = $2 AND $3::text IS NOT NULL AND key > $4 AND $5::bigint IS NOT NULL AND $6::bigint IS NOT NULL
ORDER BY key
LIMIT $7;

-- name: documents_write
UPDATE roost.documents d
SET value = q.first, siblings = q.second
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[]) AS q (collection, key, seq, first, second)
WHERE d.lane = $1 AND d.user_id = $2 AND d.collection = q.collection AND d.key = q.key AND d.version = q.seq;

-- name: events_write
UPDATE roost.events e
SET value = q.first, edits = q.second
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[]) AS q (collection, key, seq, first, second)
WHERE e.lane = $1 AND e.user_id = $2 AND e.seq = q.seq;

-- name: answers_write
UPDATE roost.answers a
SET answer = q.first, fingerprint = q.second
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[]) AS q (collection, key, seq, first, second)
WHERE a.lane = $1 AND a.user_id = $2 AND a.key = q.key;

-- name: forget_keys
DELETE FROM roost.user_keys WHERE lane = $1 AND user_id = $2 AND generation < $3;
