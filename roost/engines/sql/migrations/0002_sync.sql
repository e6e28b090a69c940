-- Devices, what their edits say of themselves, siblings, and how far lanes are folded away.
-- Columns are added without a rewrite of any table, and nodes of the release before go on writing beside this one.
ALTER TABLE roost.users ADD COLUMN clock bigint NOT NULL DEFAULT 0;

ALTER TABLE roost.lanes ADD COLUMN floor bigint NOT NULL DEFAULT 0;

ALTER TABLE roost.documents ADD COLUMN siblings bytea;

ALTER TABLE roost.events ADD COLUMN clock bigint, ADD COLUMN beside bigint[], ADD COLUMN edits bytea;

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
