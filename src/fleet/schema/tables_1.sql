-- What a person may set. Ages are intervals: '30 days', '15 minutes'.
CREATE TABLE fleet.setting (
    name text PRIMARY KEY,
    value text NOT NULL,
    meaning text NOT NULL
);
INSERT INTO fleet.setting VALUES
    ('keep_changes', '30 days', 'A change that is older is dropped, a day at a time.'),
    ('keep_incidents', '365 days', 'An incident that is older is deleted.'),
    ('stale_after', '15 minutes', 'A node that has not reported for this time counts as stale.');

-- A node. Its name is the role that it logs in with, so the name in its certificate.
CREATE TABLE fleet.node (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    store uuid,                          -- the UUID of its store; a copied store has the same
    log uuid,                            -- the epoch of its log; NULL before the first snapshot
    epoch integer NOT NULL DEFAULT 0,    -- how often its log began anew, as seen from here
    seq bigint NOT NULL DEFAULT 0,       -- the newest change that is in these tables: the cursor
    chain bigint,                        -- the chain of that change
    last bigint NOT NULL DEFAULT 0,      -- the newest change that the node has
    images integer NOT NULL DEFAULT 0,
    machine text,
    boot uuid,                           -- the boot of its kernel; a cloned machine has another
    version text,
    clock_ahead interval,                -- how far its clock is ahead of this server's
    since timestamptz NOT NULL DEFAULT now(),
    seen timestamptz NOT NULL DEFAULT now(),
    staging uuid,                        -- the snapshot that is being sent
    committed uuid,                      -- the snapshot that was taken over last
    forgotten boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);                -- most reports change this row in place

-- Image names and digests are stored once. Names may be longer than an index entry, so they are found
-- by a hash.
CREATE TABLE fleet.ref (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    namespace text NOT NULL,
    name text NOT NULL
);
CREATE INDEX ref_name ON fleet.ref USING hash (name);
CREATE TABLE fleet.digest (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest text COLLATE "C" NOT NULL UNIQUE
);

-- What every node has now.
CREATE TABLE fleet.image (
    node integer NOT NULL,
    ref integer NOT NULL,
    digest integer NOT NULL,
    seq bigint NOT NULL,                 -- the change that the row is of
    since timestamptz NOT NULL,          -- when this name got this digest
    PRIMARY KEY (ref, node)
) WITH (fillfactor = 90);
CREATE INDEX image_digest ON fleet.image (digest, node);
CREATE INDEX image_node ON fleet.image (node);

-- What changed, a partition a day. kind and origin are the numbers of lmdbimages.v1.Catalog; origin 100:
-- found when a snapshot was compared.
CREATE TABLE fleet.change (
    at timestamptz NOT NULL,
    node integer NOT NULL,
    epoch integer NOT NULL,
    seq bigint NOT NULL,
    ref integer NOT NULL,
    before integer,                      -- the digest before; NULL: there was no image of this name
    after integer,                       -- the digest after; NULL: the image was removed
    kind smallint NOT NULL,
    origin smallint NOT NULL,
    uid bigint,
    comm text,
    -- The changes of a snapshot have one seq, so ref is in the key.
    PRIMARY KEY (node, epoch, seq, ref, at)
) PARTITION BY RANGE (at);
-- The newest ones are asked for most.
CREATE INDEX change_at ON fleet.change (at);
-- A partition is a day, so these need no time; equal keys take little space.
CREATE INDEX change_ref ON fleet.change (ref);
CREATE INDEX change_before ON fleet.change (before) WHERE before IS NOT NULL;
CREATE INDEX change_after ON fleet.change (after) WHERE after IS NOT NULL;

-- Rows of snapshots that are being sent. They may be lost: the node sends the snapshot again.
CREATE UNLOGGED TABLE fleet.staged (
    node integer NOT NULL,
    ref integer NOT NULL,
    digest integer NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (node, ref)
);
CREATE INDEX staged_ref ON fleet.staged (ref);
CREATE INDEX staged_digest ON fleet.staged (digest);

-- What a person should look at: a clone, a rolled-back disk, a log that began anew, changes lost.
CREATE TABLE fleet.incident (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    node integer NOT NULL,
    kind text NOT NULL,
    times integer NOT NULL DEFAULT 1,    -- within an hour of each other
    text text NOT NULL
);
CREATE INDEX incident_at ON fleet.incident (at);

-- A change of a report, with the ids of its name and digests.
CREATE TYPE fleet.resolved AS (
    seq bigint,
    at timestamptz,
    kind smallint,
    origin smallint,
    ref integer,
    before integer,
    after integer,
    uid bigint,
    comm text
);

-- One row: what the housekeeping did last.
CREATE TABLE fleet.housekeeping (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    ran timestamptz NOT NULL DEFAULT '-infinity',
    swept_ref integer NOT NULL DEFAULT 0,
    swept_digest integer NOT NULL DEFAULT 0
);
INSERT INTO fleet.housekeeping DEFAULT VALUES;
