-- Keys beside what they seal, and what of a document stays in clear.
-- Columns are added without a rewrite of any table.
ALTER TABLE roost.users ADD COLUMN generation integer NOT NULL DEFAULT 0;

ALTER TABLE roost.documents ADD COLUMN fields jsonb;

CREATE TABLE roost.keks (
    kek         text COLLATE "C" NOT NULL PRIMARY KEY,
    state       text             NOT NULL,
    check_value bytea            NOT NULL,
    created_at  timestamptz      NOT NULL
);

-- Of several nodes that begin at the same time one wins.
CREATE UNIQUE INDEX keks_one_current ON roost.keks ((true)) WHERE state <> 'retiring';

CREATE TABLE roost.user_keys (
    lane        integer          NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    generation  integer          NOT NULL,
    kek         text COLLATE "C" NOT NULL,
    wrapped     bytea            NOT NULL,
    outdated    boolean          NOT NULL,
    PRIMARY KEY (lane, user_id, generation)
);

CREATE INDEX user_keys_by_kek ON roost.user_keys (kek, lane, user_id, generation);
CREATE INDEX user_keys_outdated ON roost.user_keys (lane, user_id) WHERE outdated;
