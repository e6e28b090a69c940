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
    generation  integer          NOT NULL DEFAULT 0,
    erased_at   timestamptz,
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
    fields      jsonb,
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

-- Not by lane: one chain for all, whose order its one row in audit_chain keeps.
CREATE TABLE roost.audit (
    n           bigint           NOT NULL PRIMARY KEY,
    at          timestamptz      NOT NULL,
    actor       text COLLATE "C" NOT NULL,
    kind        text             NOT NULL,
    action      text             NOT NULL,
    outcome     text             NOT NULL,
    address     text             NOT NULL,
    request_id  text             NOT NULL,
    purpose     text,
    user_id     text COLLATE "C",
    collection  text,
    key         text,
    count       bigint           NOT NULL,
    detail      text,
    mac         bytea            NOT NULL
);

CREATE INDEX audit_by_user ON roost.audit (user_id, n) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_actor ON roost.audit (actor, n);
CREATE INDEX audit_by_time ON roost.audit (at, n);

CREATE TABLE roost.audit_chain (
    chain     integer     NOT NULL PRIMARY KEY,
    n         bigint      NOT NULL,
    mac       bytea       NOT NULL,
    at        timestamptz NOT NULL,
    base      bigint,
    base_mac  bytea,
    seal      bytea
);

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
