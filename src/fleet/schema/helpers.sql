-- Functions that the others call. Like all functions, views and rights they hold no data and are made anew each
-- time.

CREATE OR REPLACE FUNCTION fleet.setting(wanted text) RETURNS interval
LANGUAGE sql STABLE AS
$$ SELECT value::interval FROM fleet.setting WHERE name = wanted $$;

CREATE OR REPLACE FUNCTION fleet.hash_of(namespace text, name text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT substring(sha256(convert_to(namespace || '/' || name, 'UTF8')) FROM 1 FOR 16) $$;

-- A chain as its bits: a number of 64 bits without sign does not fit a bigint, its bits do.
CREATE OR REPLACE FUNCTION fleet.chain_of(hex text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS
$$ SELECT ('x' || lpad(hex, 16, '0'))::bit(64)::bigint $$;

-- Has a partition for each of these days. It is attached after it is made: making it in place would lock
-- out all other nodes.
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
        -- Not to_regclass: this session remembers that there was none, and waiting for the lock does not tell it
        -- of the one that another report has made meanwhile. A query sees it.
        CONTINUE WHEN EXISTS (SELECT FROM pg_class c
            WHERE c.relnamespace = 'fleet'::regnamespace AND c.relname = part);
        EXECUTE format('CREATE TABLE fleet.%I (LIKE fleet.change INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE fleet.change ATTACH PARTITION fleet.%I FOR VALUES FROM (%L) TO (%L)',
            part, day::timestamptz, (day + 1)::timestamptz);
        EXECUTE format('GRANT SELECT ON fleet.%I TO fleet_reader', part);
    END LOOP;
END $$;

-- An incident. One that comes again within an hour is counted.
CREATE OR REPLACE FUNCTION fleet.note(of_node integer, of_kind text, message text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE fleet.incident SET at = now(), times = times + 1, text = message
        WHERE node = of_node AND kind = of_kind AND at > now() - interval '1 hour';
    IF NOT FOUND THEN
        INSERT INTO fleet.incident (node, kind, text) VALUES (of_node, of_kind, message);
    END IF;
END $$;
