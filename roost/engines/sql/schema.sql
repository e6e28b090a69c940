-- The whole schema as of the newest migration. A test proves that the migrations, applied in order, give this.
-- Every key starts with the lane; text in keys is compared by bytes.

CREATE SCHEMA roost;

CREATE TABLE roost.migrations (
    version     integer     NOT NULL PRIMARY KEY,
    name        text        NOT NULL,
    applied_at  timestamptz NOT NULL
);

CREATE TABLE roost.lanes (
    lane    integer NOT NULL PRIMARY KEY,
    region  text    NOT NULL,
    pos     bigint  NOT NULL,
    floor   bigint  NOT NULL DEFAULT 0
);

CREATE TABLE roost.users (
    lane        integer          NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    seq         bigint           NOT NULL,
    floor       bigint           NOT NULL,
    created_at  timestamptz      NOT NULL,
    updated_at  timestamptz      NOT NULL,
    counts      jsonb            NOT NULL,
    clock       bigint           NOT NULL DEFAULT 0,
    PRIMARY KEY (lane, user_id)
) WITH (fillfactor = 80);

CREATE TABLE roost.documents (
    lane        integer          NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    collection  text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    version     bigint           NOT NULL,
    value       bytea,
    updated_at  timestamptz      NOT NULL,
    siblings    bytea,
    PRIMARY KEY (lane, user_id, collection, key)
) WITH (fillfactor = 80);

CREATE TABLE roost.events (
    lane        integer          NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    seq         bigint           NOT NULL,
    pos         bigint           NOT NULL,
    kind        text             NOT NULL,
    collection  text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    value       bytea,
    actor       text             NOT NULL,
    device      text,
    mutation    bigint,
    at          timestamptz      NOT NULL,
    clock       bigint,
    beside      bigint[],
    edits       bytea,
    PRIMARY KEY (lane, user_id, seq)
);

CREATE UNIQUE INDEX events_by_position ON roost.events (lane, pos);
CREATE INDEX events_by_document ON roost.events (lane, user_id, collection, key, seq);

CREATE TABLE roost.answers (
    lane         integer          NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    fingerprint  bytea            NOT NULL,
    answer       bytea            NOT NULL,
    at           timestamptz      NOT NULL,
    PRIMARY KEY (lane, user_id, key)
);

CREATE INDEX answers_by_age ON roost.answers (at);

-- Without an index by age: each sign of life would have to be entered there, and age is asked for once in a while.
CREATE TABLE roost.devices (
    lane      integer          NOT NULL,
    user_id   text COLLATE "C" NOT NULL,
    device    text COLLATE "C" NOT NULL,
    number    bigint           NOT NULL,
    cursor    bigint           NOT NULL,
    seen_at   timestamptz      NOT NULL,
    until     timestamptz,
    PRIMARY KEY (lane, user_id, device)
) WITH (fillfactor = 80);
