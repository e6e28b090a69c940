-- The audit trail: one chain of records, and where it begins and ends.
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
