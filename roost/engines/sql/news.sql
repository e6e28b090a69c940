-- What the connection for wake-ups sends.

-- name: announce
NOTIFY roost;

-- name: probe
SELECT 1;
