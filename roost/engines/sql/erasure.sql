-- Erasure and retention: what is deleted for good.

-- name: erase_heads
-- What `append` does not write of a head. Nothing is left that tells when the user came.
UPDATE roost.users u
SET floor = q.floor, erased_at = q.erased_at, created_at = q.erased_at, generation = 0
FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::timestamptz[]) AS q (lane, user_id, floor, erased_at)
WHERE u.lane = q.lane AND u.user_id = q.user_id;

-- name: is_erased
SELECT user_id FROM roost.users WHERE lane = $1 AND user_id = $2 AND erased_at IS NOT NULL;

-- name: erase
-- Delete what a user has: all keys, and of each other table at most a number of rows. Tells how many of these rows went,
-- and the highest position of an event that did. Each table is walked by its key, up to where the part ends; a join with
-- a list of what is to go would leave a choice of plans, some of which take the square of it.
WITH keys AS (
    DELETE FROM roost.user_keys WHERE lane = $1 AND user_id = $2
),
documents AS (
    DELETE FROM roost.documents
    WHERE lane = $1 AND user_id = $2 AND (collection, key) < (
        coalesce(
            (
                SELECT collection FROM roost.documents
                WHERE lane = $1 AND user_id = $2
                ORDER BY collection, key OFFSET $3 LIMIT 1
            ),
            chr(1114111)
        ),
        coalesce(
            (
                SELECT key FROM roost.documents
                WHERE lane = $1 AND user_id = $2
                ORDER BY collection, key OFFSET $3 LIMIT 1
            ),
            ''
        )
    )
    RETURNING 1
),
answers AS (
    DELETE FROM roost.answers
    WHERE lane = $1 AND user_id = $2 AND key < coalesce(
        (SELECT key FROM roost.answers WHERE lane = $1 AND user_id = $2 ORDER BY key OFFSET $3 LIMIT 1),
        chr(1114111)
    )
    RETURNING 1
),
devices AS (
    DELETE FROM roost.devices
    WHERE lane = $1 AND user_id = $2 AND device < coalesce(
        (SELECT device FROM roost.devices WHERE lane = $1 AND user_id = $2 ORDER BY device OFFSET $3 LIMIT 1),
        chr(1114111)
    )
    RETURNING 1
),
events AS (
    DELETE FROM roost.events
    WHERE lane = $1 AND user_id = $2 AND kind <> 'erase' AND seq < coalesce(
        (SELECT seq FROM roost.events WHERE lane = $1 AND user_id = $2 ORDER BY seq OFFSET $3 LIMIT 1),
        9223372036854775807
    )
    RETURNING pos
)
SELECT
    (SELECT count(*) FROM documents) + (SELECT count(*) FROM answers) + (SELECT count(*) FROM devices)
        + (SELECT count(*) FROM events),
    (SELECT max(pos) FROM events);

-- name: leftovers
-- Who of these users has anything besides a tombstone.
SELECT u.user_id
FROM unnest($1::integer[], $2::text[]) AS u (lane, user_id)
WHERE EXISTS (SELECT FROM roost.user_keys k WHERE k.lane = u.lane AND k.user_id = u.user_id)
    OR EXISTS (SELECT FROM roost.documents d WHERE d.lane = u.lane AND d.user_id = u.user_id)
    OR EXISTS (SELECT FROM roost.answers a WHERE a.lane = u.lane AND a.user_id = u.user_id)
    OR EXISTS (SELECT FROM roost.devices d WHERE d.lane = u.lane AND d.user_id = u.user_id)
    OR EXISTS (
        SELECT FROM roost.events e WHERE e.lane = u.lane AND e.user_id = u.user_id AND e.kind <> 'erase'
    );

-- name: raise_lanes
-- Once the lanes are locked, in their order.
UPDATE roost.lanes l
SET floor = greatest(l.floor, q.pos)
FROM (
    SELECT k.lane, q.pos
    FROM unnest($1::integer[], $2::bigint[]) AS q (lane, pos)
    JOIN roost.lanes k ON k.lane = q.lane
    ORDER BY k.lane
    FOR UPDATE OF k
) AS q
WHERE l.lane = q.lane;

-- name: holders
-- Which of these users have, or had, a document of which of these collections.
SELECT u.user_id, c.collection
FROM unnest($1::integer[], $2::text[]) AS u (lane, user_id)
CROSS JOIN unnest($3::text[]) AS c (collection)
WHERE EXISTS (
    SELECT FROM roost.documents d
    WHERE d.lane = u.lane AND d.user_id = u.user_id AND d.collection = c.collection
);

-- name: expired
-- Documents of these users that were written last before a time, which each collection has of its own.
SELECT d.user_id, d.collection, d.key, d.version
FROM unnest($1::integer[], $2::text[]) AS u (lane, user_id)
CROSS JOIN unnest($3::text[], $4::timestamptz[]) AS c (collection, before)
JOIN roost.documents d
    ON d.lane = u.lane AND d.user_id = u.user_id AND d.collection = c.collection
WHERE d.value IS NOT NULL AND d.updated_at < c.before
ORDER BY d.lane, d.user_id, d.collection, d.key
LIMIT $5;
