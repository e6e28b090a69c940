-- The write side: one transaction runs lock_heads, create_heads (new users), load_*, unseen, append_*, append.
-- Locks are taken in the same order by everyone: users by (lane, user_id), then devices by key, then lanes.

-- name: lock_heads
SELECT u.generation, u.user_id, u.seq, u.floor, u.created_at, u.updated_at, u.counts, u.clock, u.erased_at
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
-- Of those that are not wanted as a `whole`, an empty value tells that there is one: none is read from its row, nor sent.
SELECT
    d.user_id, d.collection, d.key, d.version, CASE WHEN q.whole OR d.value IS NULL THEN d.value ELSE '' END,
    d.updated_at, CASE WHEN q.whole THEN d.siblings END
FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::boolean[])
    AS q (lane, user_id, collection, key, whole)
JOIN roost.documents d
    ON d.lane = q.lane AND d.user_id = q.user_id AND d.collection = q.collection AND d.key = q.key;

-- name: load_answers
SELECT a.user_id, a.key, a.fingerprint, a.answer, a.at
FROM unnest($1::integer[], $2::text[], $3::text[]) AS q (lane, user_id, key)
JOIN roost.answers a ON a.lane = q.lane AND a.user_id = q.user_id AND a.key = q.key;

-- name: load_events
SELECT e.user_id, e.seq, e.kind, e.collection, e.key, e.value, e.at, e.actor, e.device, e.mutation,
    e.clock, e.beside, e.edits
FROM unnest($1::integer[], $2::text[], $3::bigint[]) AS q (lane, user_id, seq)
JOIN roost.events e ON e.lane = q.lane AND e.user_id = q.user_id AND e.seq = q.seq;

-- name: append_answers
INSERT INTO roost.answers (lane, user_id, key, fingerprint, answer, at)
SELECT * FROM unnest($1::integer[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::timestamptz[])
ON CONFLICT (lane, user_id, key)
DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer, at = excluded.at;

-- name: load_devices
SELECT d.user_id, d.device, d.number, d.cursor, d.seen_at, d.until
FROM unnest($1::integer[], $2::text[], $3::text[]) AS q (lane, user_id, device)
JOIN roost.devices d ON d.lane = q.lane AND d.user_id = q.user_id AND d.device = q.device;

-- name: count_devices
SELECT q.user_id, (SELECT count(*) FROM roost.devices d WHERE d.lane = q.lane AND d.user_id = q.user_id)
FROM unnest($1::integer[], $2::text[]) AS q (lane, user_id);

-- name: unseen
-- For each document (`nr`), its newest events after a base. What the events of one user hold is told up to a size; of
-- those beyond (not `fits`), only that they are there.
SELECT
    f.nr, f.fits, f.user_id, f.seq, f.kind, f.collection, f.key, CASE WHEN f.fits AND f.edits IS NULL THEN f.value END,
    f.at, f.actor, f.device, f.mutation, f.clock, f.beside, CASE WHEN f.fits OR f.edits = '[]' THEN f.edits END
FROM (
    SELECT
        q.nr, e.*,
        sum(octet_length(coalesce(e.edits, e.value))) OVER (PARTITION BY q.lane, q.user_id ORDER BY q.nr, e.seq DESC)
            <= $7::bigint IS NOT FALSE AS fits
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        WITH ORDINALITY AS q (lane, user_id, collection, key, base, nr)
    CROSS JOIN LATERAL (
        SELECT *
        FROM roost.events e
        WHERE e.lane = q.lane AND e.user_id = q.user_id AND e.collection = q.collection AND e.key = q.key
            AND e.seq > q.base
        ORDER BY e.seq DESC
        LIMIT $6
    ) AS e
) AS f
ORDER BY f.nr, f.seq;

-- name: append_devices
INSERT INTO roost.devices AS d (lane, user_id, device, number, cursor, seen_at)
SELECT *
FROM unnest($1::integer[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[])
    AS q (lane, user_id, device, number, cursor, seen_at)
ORDER BY q.lane, q.user_id COLLATE "C", q.device COLLATE "C"
ON CONFLICT (lane, user_id, device)
DO UPDATE SET
    number = excluded.number, cursor = greatest(d.cursor, excluded.cursor), seen_at = excluded.seen_at;

-- name: append
-- Heads, documents, lanes and events in one round trip. `step` is an event's place among the new ones of its lane;
-- `last` tells the events that are the last of their documents. Counts are NULL where they stay as they are. The last
-- five arrays are empty where they would hold nothing but NULL, as nearly always: `unnest` fills them up.
WITH appended AS MATERIALIZED (
    SELECT *
    FROM unnest(
        $7::integer[], $8::text[], $9::bigint[], $10::integer[], $11::boolean[], $12::text[], $13::text[], $14::text[],
        $15::bytea[], $16::text[], $17::text[], $18::bigint[], $19::timestamptz[],
        $22::bigint[], $23::text[], $24::bytea[], $25::bytea[], $26::text[]
    ) AS a (
        lane, user_id, seq, step, last, kind, collection, key, value, actor, device, mutation, at,
        clock, beside, edits, siblings, fields
    )
),
heads AS (
    UPDATE roost.users u
    SET seq = q.seq, updated_at = q.updated_at, clock = q.clock, counts = coalesce(q.counts::jsonb, u.counts)
    FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::text[])
        AS q (lane, user_id, seq, updated_at, clock, counts)
    WHERE u.lane = q.lane AND u.user_id = q.user_id
),
documents AS (
    INSERT INTO roost.documents (lane, user_id, collection, key, version, value, updated_at, siblings, fields)
    SELECT lane, user_id, collection, key, seq, value, at, siblings, fields::jsonb FROM appended WHERE last
    ON CONFLICT (lane, user_id, collection, key)
    DO UPDATE SET
        version = excluded.version, value = excluded.value, updated_at = excluded.updated_at,
        siblings = excluded.siblings, fields = excluded.fields
),
locked AS MATERIALIZED (
    SELECT lane, pos FROM roost.lanes WHERE lane = ANY ($20::integer[]) ORDER BY lane FOR UPDATE
),
advanced AS (
    UPDATE roost.lanes l
    SET pos = k.pos + q.steps
    FROM locked k
    JOIN unnest($20::integer[], $21::integer[]) AS q (lane, steps) ON q.lane = k.lane
    WHERE l.lane = k.lane
)
INSERT INTO roost.events
    (lane, user_id, seq, pos, kind, collection, key, value, actor, device, mutation, at, clock, beside, edits)
SELECT
    a.lane, a.user_id, a.seq, k.pos + a.step, a.kind, a.collection, a.key, a.value, a.actor, a.device, a.mutation, a.at,
    a.clock, a.beside::bigint[], a.edits
FROM appended a
JOIN locked k ON k.lane = a.lane;

-- name: touch
INSERT INTO roost.devices AS d (lane, user_id, device, number, cursor, seen_at, until)
SELECT q.lane, q.user_id, q.device, 0, q.cursor, q.seen_at, q.until
FROM unnest($1::integer[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[])
    AS q (lane, user_id, device, cursor, seen_at, until)
JOIN roost.users u ON u.lane = q.lane AND u.user_id = q.user_id AND u.erased_at IS NULL
LEFT JOIN roost.devices k ON k.lane = q.lane AND k.user_id = q.user_id AND k.device = q.device
WHERE k.device IS NOT NULL
    OR (SELECT count(*) FROM roost.devices o WHERE o.lane = q.lane AND o.user_id = q.user_id) < $7
ORDER BY q.lane, q.user_id COLLATE "C", q.device COLLATE "C"
ON CONFLICT (lane, user_id, device)
DO UPDATE SET cursor = greatest(d.cursor, excluded.cursor), seen_at = excluded.seen_at, until = excluded.until;

-- name: leave
WITH locked AS MATERIALIZED (
    SELECT d.lane, d.user_id, d.device, q.cursor, q.seen_at, q.until
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::timestamptz[])
        AS q (lane, user_id, device, cursor, seen_at, until)
    JOIN roost.devices d ON d.lane = q.lane AND d.user_id = q.user_id AND d.device = q.device
    ORDER BY d.lane, d.user_id, d.device
    FOR UPDATE OF d
)
UPDATE roost.devices d
SET
    cursor = greatest(d.cursor, k.cursor),
    seen_at = greatest(d.seen_at, k.seen_at),
    until = CASE WHEN d.until > k.until THEN d.until END
FROM locked k
WHERE d.lane = k.lane AND d.user_id = k.user_id AND d.device = k.device;

-- name: forget_devices
DELETE FROM roost.devices d
USING (
    SELECT lane, user_id, device
    FROM roost.devices
    WHERE seen_at < $1
    ORDER BY seen_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE d.lane = old.lane AND d.user_id = old.user_id AND d.device = old.device;

-- name: lock_floor
SELECT floor FROM roost.users WHERE lane = $1 AND user_id = $2 AND floor < $3 AND seq >= $3 FOR UPDATE;

-- name: fold_away
-- Only documents that were written from the old floor on can have events that the new one does without. `first` is the
-- first event of each that has to stay: `roost.core.fold.superseded`, in SQL. OFFSET 0 and the array leave no choice of
-- plans: each document is looked up in its index, and each event that goes by its key.
WITH written AS (
    SELECT DISTINCT ON (collection, key) collection, key, seq, value IS NULL AS deleted, beside
    FROM roost.events
    WHERE lane = $1 AND user_id = $2 AND seq >= $3 AND seq <= $4
    ORDER BY collection, key, seq DESC
),
kept AS MATERIALIZED (
    SELECT
        collection, key,
        CASE WHEN deleted THEN $4 ELSE least(seq, (SELECT min(version) FROM unnest(beside) AS version)) END AS first
    FROM written
),
gone AS (
    DELETE FROM roost.events
    WHERE lane = $1 AND user_id = $2 AND seq = ANY (ARRAY(
        SELECT e.seq
        FROM kept k
        CROSS JOIN LATERAL (
            SELECT seq
            FROM roost.events
            WHERE lane = $1 AND user_id = $2 AND collection = k.collection AND key = k.key AND seq < k.first
            OFFSET 0
        ) AS e
    ))
    RETURNING pos
)
SELECT count(*) AS events, coalesce(max(pos), 0) AS pos FROM gone;

-- name: raise_floor
UPDATE roost.users SET floor = $3 WHERE lane = $1 AND user_id = $2;

-- name: raise_lane
UPDATE roost.lanes SET floor = greatest(floor, $2) WHERE lane = $1;

-- name: forget_answers
DELETE FROM roost.answers a
USING (SELECT lane, user_id, key FROM roost.answers WHERE at < $1 ORDER BY at LIMIT $2) AS old
WHERE a.lane = old.lane AND a.user_id = old.user_id AND a.key = old.key AND a.at < $1;
