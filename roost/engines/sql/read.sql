-- The read side. Statements that return pages stop at a number of rows, and before a number of bytes
-- (the first row always comes): a page of large values must not fill a server's memory.

-- name: ping
SELECT max(version) FROM roost.migrations;

-- name: points
SELECT q.nr, u.seq, u.erased_at IS NOT NULL, d.version, d.value, d.updated_at, d.siblings
FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS q (lane, user_id, collection, key, nr)
JOIN roost.users u ON u.lane = q.lane AND u.user_id = q.user_id
LEFT JOIN roost.documents d
    ON d.lane = q.lane AND d.user_id = q.user_id AND d.collection = q.collection AND d.key = q.key;

-- name: head
SELECT user_id, seq, floor, created_at, updated_at, counts, clock, erased_at
FROM roost.users
WHERE lane = $1 AND user_id = $2;

-- name: document_at
SELECT collection, key, seq AS version, value, at AS updated_at
FROM roost.events
WHERE lane = $1 AND user_id = $2 AND collection = $3 AND key = $4 AND seq <= $5
ORDER BY seq DESC
LIMIT 1;

-- name: page
SELECT collection, key, version, value, updated_at, siblings
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY key) - bytes AS bytes_before
    FROM (
        SELECT
            collection, key, version, value, updated_at, siblings,
            octet_length(value) + coalesce(octet_length(siblings), 0) AS bytes
        FROM roost.documents
        WHERE lane = $1 AND user_id = $2 AND collection = $3 AND value IS NOT NULL
            AND key > $4 AND key >= $5 AND ($6::text IS NULL OR key < $6)
        ORDER BY key
        LIMIT $7
    ) AS candidates
) AS measured
WHERE bytes_before < $8
ORDER BY key;

-- name: snapshot_now
SELECT collection, key, version, value, updated_at, siblings
FROM roost.documents
WHERE lane = $1 AND user_id = $2 AND value IS NOT NULL
ORDER BY collection, key;

-- name: snapshot_at
SELECT d.collection, d.key, e.seq AS version, e.value, e.at AS updated_at
FROM roost.documents d
CROSS JOIN LATERAL (
    SELECT seq, value, at
    FROM roost.events e
    WHERE e.lane = d.lane AND e.user_id = d.user_id AND e.collection = d.collection AND e.key = d.key
        AND e.seq <= $3
    ORDER BY e.seq DESC
    LIMIT 1
) AS e
WHERE d.lane = $1 AND d.user_id = $2 AND e.value IS NOT NULL
ORDER BY d.collection, d.key;

-- name: history
SELECT user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY seq DESC) - bytes AS bytes_before
    FROM (
        SELECT *, coalesce(octet_length(value), 0) + coalesce(octet_length(edits), 0) AS bytes
        FROM roost.events
        WHERE lane = $1 AND user_id = $2 AND collection = $3 AND key = $4 AND seq < $5
        ORDER BY seq DESC
        LIMIT $6
    ) AS candidates
) AS measured
WHERE bytes_before < $7
ORDER BY seq DESC;

-- name: log
SELECT user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY seq) - bytes AS bytes_before
    FROM (
        SELECT *, coalesce(octet_length(value), 0) + coalesce(octet_length(edits), 0) AS bytes
        FROM roost.events
        WHERE lane = $1 AND user_id = $2 AND seq > $3 AND seq <= $4
            AND ($5::text[] IS NULL OR collection = ANY ($5))
        ORDER BY seq
        LIMIT $6
    ) AS candidates
) AS measured
WHERE bytes_before < $7
ORDER BY seq;

-- name: seq_at
-- Times never go back within a log, so the moment is found by halving: lo is at or before it, hi after. All events from
-- the floor on are there.
WITH RECURSIVE halving (lo, hi) AS (
    SELECT greatest(floor - 1, 0), seq + 1 FROM roost.users WHERE lane = $1 AND user_id = $2
    UNION ALL
    SELECT
        CASE WHEN e.at <= $3 THEN e.seq ELSE h.lo END,
        CASE WHEN e.at <= $3 THEN h.hi ELSE e.seq END
    FROM halving h
    JOIN roost.events e ON e.lane = $1 AND e.user_id = $2 AND e.seq = (h.lo + h.hi) >> 1
    WHERE h.hi - h.lo > 1
)
SELECT max(lo) FROM halving;

-- name: users
SELECT user_id, seq, floor, created_at, updated_at, counts, clock, erased_at
FROM roost.users
WHERE (lane, user_id) > ($1, $2)
ORDER BY lane, user_id
LIMIT $3;

-- name: positions
SELECT lane, pos FROM roost.lanes ORDER BY lane;

-- name: floors
SELECT lane, floor FROM roost.lanes ORDER BY lane;

-- name: lane
SELECT pos, user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY pos) - bytes AS bytes_before
    FROM (
        SELECT *, coalesce(octet_length(value), 0) + coalesce(octet_length(edits), 0) AS bytes
        FROM roost.events
        WHERE lane = $1 AND pos > $2
        ORDER BY pos
        LIMIT $3
    ) AS candidates
) AS measured
WHERE bytes_before < $4
ORDER BY pos;

-- name: feed
-- Lanes that have moved, each with its head, and their events; none where a lane has moved and its events are missing.
SELECT lane, head, pos, user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY lane, pos) - bytes AS bytes_before
    FROM (
        SELECT l.lane, l.pos AS head, e.*, coalesce(octet_length(value), 0) + coalesce(octet_length(edits), 0) AS bytes
        FROM unnest($1::integer[], $2::bigint[]) AS q (lane, pos)
        JOIN roost.lanes l ON l.lane = q.lane AND l.pos > q.pos
        LEFT JOIN LATERAL (
            SELECT pos, user_id, seq, kind, collection, key, value, at, actor, device, mutation, clock, beside, edits
            FROM roost.events
            WHERE lane = q.lane AND pos > q.pos
            ORDER BY pos
            LIMIT $3
        ) AS e ON true
        ORDER BY l.lane, e.pos
        LIMIT $3
    ) AS candidates
) AS measured
WHERE bytes_before < $4
ORDER BY lane, pos;

-- name: stored
SELECT collection, key, version, value, updated_at, siblings
FROM roost.documents
WHERE lane = $1 AND user_id = $2
ORDER BY collection, key;

-- name: devices
SELECT device, number, cursor, seen_at, until
FROM roost.devices
WHERE lane = $1 AND user_id = $2
ORDER BY device;

-- name: connected
SELECT d.user_id, d.device, d.number, d.cursor, d.seen_at, d.until
FROM unnest($1::integer[], $2::text[]) AS q (lane, user_id)
JOIN roost.devices d ON d.lane = q.lane AND d.user_id = q.user_id
WHERE d.until > $3
ORDER BY d.lane, d.user_id, d.device;
