-- The tables of a fleet, for a database of PostgreSQL 13 or later. Run it as a role that may create roles
-- and schemas, once for a new version of lmdb-images; a second run changes nothing.
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT pg_advisory_xact_lock(hashtext('fleet.schema'), 0);
