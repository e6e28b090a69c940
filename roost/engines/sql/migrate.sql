-- What a migration run sends besides the migrations themselves.

-- name: wait_for_others
SELECT pg_advisory_lock($1);

-- name: has_migrations
SELECT to_regclass('roost.migrations') IS NOT NULL;

-- name: version
SELECT coalesce(max(version), 0) FROM roost.migrations;

-- name: create_lanes
INSERT INTO roost.lanes (lane, region, pos) SELECT lane, $2, 0 FROM generate_series(0, $1::integer - 1) AS lane;

-- name: applied
INSERT INTO roost.migrations (version, name, applied_at) VALUES ($1, $2, $3);
