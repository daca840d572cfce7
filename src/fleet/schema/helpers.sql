-- Functions that other functions call. Like all functions, views and rights they hold no data, and each run of the
-- script makes them anew.

CREATE OR REPLACE FUNCTION fleet.setting(wanted text) RETURNS interval
LANGUAGE sql STABLE AS
$$ SELECT value::interval FROM fleet.setting WHERE name = wanted $$;

CREATE OR REPLACE FUNCTION fleet.hash_of(namespace text, name text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT substring(sha256(convert_to(namespace || '/' || name, 'UTF8')) FROM 1 FOR 16) $$;

-- The bits of a chain as a bigint: an unsigned number of 64 bits may be too large for a bigint.
CREATE OR REPLACE FUNCTION fleet.chain_of(hex text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || lpad(hex, 16, '0'))::bit(64)::bigint $$;

-- Makes a partition for each of these days, if it is missing. It is attached after it is made: creating it as a
-- partition would lock out all other nodes.
CREATE OR REPLACE FUNCTION fleet.make_days(days date[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    day date;
    part text;
BEGIN
    FOREACH day IN ARRAY coalesce(days, '{}') LOOP
        part := 'change_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('fleet.' || part) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(hashtext('fleet.make_days'), 0);
        -- Not to_regclass: it may still answer from this session's cache that there is no partition, although
        -- another report made one while this one waited for the lock. A query sees that partition.
        CONTINUE WHEN EXISTS (SELECT FROM pg_class c
            WHERE c.relnamespace = 'fleet'::regnamespace AND c.relname = part);
        EXECUTE format('CREATE TABLE fleet.%I (LIKE fleet.change INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE fleet.change ATTACH PARTITION fleet.%I FOR VALUES FROM (%L) TO (%L)',
            part, day::timestamptz, (day + 1)::timestamptz);
        EXECUTE format('GRANT SELECT ON fleet.%I TO fleet_reader', part);
    END LOOP;
END $$;

-- Records an incident. If the same incident was recorded within the last hour, its count is increased.
CREATE OR REPLACE FUNCTION fleet.note(of_node integer, of_kind text, message text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE fleet.incident SET at = now(), times = times + 1, text = message
        WHERE node = of_node AND kind = of_kind AND at > now() - interval '1 hour';
    IF NOT FOUND THEN
        INSERT INTO fleet.incident (node, kind, text) VALUES (of_node, of_kind, message);
    END IF;
END $$;
