-- What a replica keeps on its device, and every statement on it. Values, mutations and answers are encoded JSON.
-- One row in `replica` is all there is to know but documents and mutations. Of the documents only those of its
-- `edition` count: a snapshot is read page by page into the next edition, which then takes the place of the one before.

-- name: exclusive
PRAGMA locking_mode = EXCLUSIVE;

-- name: journal
PRAGMA journal_mode = WAL;

-- name: durable
PRAGMA synchronous = FULL;

-- name: version
PRAGMA user_version;

-- name: schema
CREATE TABLE replica (
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    cursor INTEGER,
    number INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    edition INTEGER NOT NULL,
    collections TEXT,
    stale INTEGER NOT NULL
);
CREATE TABLE documents (
    edition INTEGER NOT NULL,
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    value BLOB NOT NULL,
    updated_at TEXT NOT NULL,
    siblings BLOB,
    PRIMARY KEY (edition, collection, key)
);
CREATE TABLE mutations (
    number INTEGER PRIMARY KEY,
    mutation BLOB NOT NULL,
    result BLOB,
    seen TEXT NOT NULL
);
PRAGMA user_version = 1;

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: create
INSERT INTO replica (user, device, cursor, number, clock, edition, collections, stale)
VALUES (?, ?, NULL, 0, 0, 0, ?, 1);

-- name: load
SELECT user, device, cursor, number, clock, edition, collections, stale FROM replica;

-- name: save
UPDATE replica SET device = ?, cursor = ?, number = ?, clock = ?;

-- name: narrow
UPDATE replica SET collections = ?, stale = 1, cursor = CASE WHEN NOT ? THEN cursor END;

-- name: stale
UPDATE replica SET stale = 1;

-- name: turn
UPDATE replica SET edition = ?, stale = 0;

-- name: documents
SELECT collection, key, version, value, updated_at, siblings FROM documents WHERE edition = ?;

-- name: put_document
INSERT INTO documents (edition, collection, key, version, value, updated_at, siblings) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    version = excluded.version, value = excluded.value, updated_at = excluded.updated_at, siblings = excluded.siblings;

-- name: delete_document
DELETE FROM documents WHERE edition = ? AND collection = ? AND key = ?;

-- name: sweep
DELETE FROM documents WHERE rowid IN (SELECT rowid FROM documents WHERE edition <> ? LIMIT ?);

-- name: mutations
SELECT mutation, result, seen FROM mutations ORDER BY number;

-- name: put_mutation
INSERT INTO mutations (number, mutation, result, seen) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET mutation = excluded.mutation, result = excluded.result, seen = excluded.seen;

-- name: delete_mutation
DELETE FROM mutations WHERE number = ?;

-- name: shred
PRAGMA secure_delete = ON;

-- name: wipe_documents
DELETE FROM documents;

-- name: wipe_mutations
DELETE FROM mutations;

-- name: wipe_replica
DELETE FROM replica;
