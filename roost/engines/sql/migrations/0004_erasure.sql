-- Users who were erased: what is left of one is a head that says when.

ALTER TABLE roost.users ADD COLUMN erased_at timestamptz;
