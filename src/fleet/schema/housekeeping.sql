-- The housekeeping that a report does once an hour, to keep the tables small.

-- The names and the digests among these to which no row refers.
CREATE OR REPLACE FUNCTION fleet.unused_refs(ids integer[]) RETURNS integer[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(r) FROM unnest(ids) AS r
    WHERE (SELECT 1 FROM fleet.image WHERE ref = r LIMIT 1) IS NULL
      AND (SELECT 1 FROM fleet.staged WHERE ref = r LIMIT 1) IS NULL
      AND (SELECT 1 FROM fleet.change WHERE ref = r LIMIT 1) IS NULL
$$;
CREATE OR REPLACE FUNCTION fleet.unused_digests(ids integer[]) RETURNS integer[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(d) FROM unnest(ids) AS d
    WHERE (SELECT 1 FROM fleet.image WHERE digest = d LIMIT 1) IS NULL
      AND (SELECT 1 FROM fleet.staged WHERE digest = d LIMIT 1) IS NULL
      AND (SELECT 1 FROM fleet.change WHERE before = d LIMIT 1) IS NULL
      AND (SELECT 1 FROM fleet.change WHERE after = d LIMIT 1) IS NULL
$$;

-- Drops the partitions of days that are no longer kept, makes those of the next days, and deletes old incidents. It also
-- deletes the names and digests to which no row refers, a slice at a time. A report calls it once an hour.
--
-- Reports hold the lock fleet.report in shared mode, and this function takes it exclusively. So no report has looked up
-- an id that this function deletes. If a lock is not free soon, the work is left for the next time.
CREATE OR REPLACE FUNCTION fleet.keep_house() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    house fleet.housekeeping;
    part text;
    refs integer[];
    digests integer[];
    slice CONSTANT integer := 10000;
BEGIN
    SELECT * INTO house FROM fleet.housekeeping FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR house.ran > now() - interval '1 hour' THEN RETURN; END IF;
    SELECT array_agg(id) INTO refs FROM (
        SELECT id FROM fleet.ref WHERE id > house.swept_ref ORDER BY id LIMIT slice) r;
    SELECT array_agg(id) INTO digests FROM (
        SELECT id FROM fleet.digest WHERE id > house.swept_digest ORDER BY id LIMIT slice) d;
    UPDATE fleet.housekeeping SET ran = now(),
        swept_ref = CASE WHEN cardinality(refs) = slice THEN refs[slice] ELSE 0 END,
        swept_digest = CASE WHEN cardinality(digests) = slice THEN digests[slice] ELSE 0 END;
    PERFORM fleet.make_days(ARRAY[current_date, current_date + 1]);
    refs := fleet.unused_refs(refs);
    digests := fleet.unused_digests(digests);
    PERFORM pg_advisory_xact_lock(hashtext('fleet.report'), 0);
    DELETE FROM fleet.ref WHERE id = ANY (fleet.unused_refs(refs));
    DELETE FROM fleet.digest WHERE id = ANY (fleet.unused_digests(digests));
    DELETE FROM fleet.incident WHERE at < now() - fleet.setting('keep_incidents');
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'fleet.change'::regclass
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < (now() - fleet.setting('keep_changes'))::date
    LOOP
        EXECUTE format('DROP TABLE fleet.%I', part);
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    -- A long query reads a partition that is to be dropped, or a long report runs. The next try is in a minute.
    UPDATE fleet.housekeeping SET ran = now() - interval '59 minutes';
END $$;
