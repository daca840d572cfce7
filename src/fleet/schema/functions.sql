-- Functions and views. They hold no data and are made anew each time.

CREATE OR REPLACE FUNCTION fleet.setting(wanted text) RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
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
        CONTINUE WHEN to_regclass('fleet.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE fleet.%I (LIKE fleet.change INCLUDING ALL)', part);
        EXECUTE format('ALTER TABLE fleet.change ATTACH PARTITION fleet.%I FOR VALUES FROM (%L) TO (%L)',
            part, day::timestamptz, (day + 1)::timestamptz);
        EXECUTE format('GRANT SELECT ON fleet.%I TO fleet_reader', part);
    END LOOP;
END $$;

-- An incident. One that comes again within an hour is counted.
CREATE OR REPLACE FUNCTION fleet.note(of_node integer, of_kind text, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE fleet.incident SET at = now(), times = times + 1, text = message
        WHERE node = of_node AND kind = of_kind AND at > now() - interval '1 hour';
    IF NOT FOUND THEN
        INSERT INTO fleet.incident (node, kind, text) VALUES (of_node, of_kind, message);
    END IF;
END $$;

-- Which of these names and digests nothing names any more.
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

-- Drops the days that are no longer kept, makes those that come, deletes old incidents, and the names and
-- digests that nothing names any more, a slice at a time. A report calls it once an hour.
--
-- Reports hold the lock fleet.report shared and this takes it alone, so that no report has looked up an id
-- that is deleted here. What would have to wait for long is left for the next time.
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
    -- A long question holds a day that is to be dropped, or a long report runs. Again in a minute.
    UPDATE fleet.housekeeping SET ran = now() - interval '59 minutes';
END $$;

-- The answer to a report. ok: it is in the tables. want: what the node should send next.
CREATE OR REPLACE FUNCTION fleet.answer(me fleet.node, ok boolean, want text, why text DEFAULT NULL)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('ok', ok, 'want', want, 'why', why, 'log', me.log,
        'seq', me.seq, 'epoch', me.epoch))
$$;

-- "I am here, and this is the end of my log." Tells what is wanted next: changes from seq on, or a
-- snapshot and why.
CREATE OR REPLACE FUNCTION fleet.hello(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head jsonb := report->'head';
    its_log uuid := (report->>'log')::uuid;
    its_last bigint := (head->>'last')::bigint;
    its_boot uuid := (report->>'boot')::uuid;
    other record;
    why text;
BEGIN
    IF me.store IS DISTINCT FROM (report->>'store')::uuid OR me.log IS DISTINCT FROM its_log THEN
        FOR other IN SELECT n.name FROM fleet.node n
            WHERE n.store = (report->>'store')::uuid AND n.log = its_log AND n.id <> me.id
        LOOP
            PERFORM fleet.note(me.id, 'clone', format(
                'its store is a copy of the one of node %s: both have store %s and log %s',
                other.name, report->>'store', its_log));
        END LOOP;
    END IF;
    UPDATE fleet.node n SET store = (report->>'store')::uuid, machine = report->>'machine', boot = its_boot,
        version = report->>'version', last = its_last, seen = now(), forgotten = false,
        clock_ahead = (report->>'now')::timestamptz - clock_timestamp()
        WHERE n.id = me.id;
    why := CASE
        WHEN me.log IS NULL THEN 'first'
        WHEN me.log <> its_log THEN 'log'
        WHEN its_last < me.seq THEN 'rollback'
        WHEN its_last = me.seq AND fleet.chain_of(head->>'chain') <> me.chain THEN 'diverged'
        WHEN (head->>'first')::bigint > me.seq + 1 AND its_last > me.seq THEN 'compacted'
    END;
    IF why IS NOT NULL THEN
        RETURN fleet.answer(me, true, 'snapshot', why);
    END IF;
    RETURN fleet.answer(me, true, 'changes');
END $$;

CREATE OR REPLACE FUNCTION fleet.rows_of(rows jsonb) RETURNS fleet.reported[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(ROW(seq, at, kind, origin, fleet.hash_of(ns, name), ns, name, old, new, uid,
        comm)::fleet.reported), '{}')
    FROM jsonb_to_recordset(rows) AS r(seq bigint, at timestamptz, kind smallint, origin smallint, ns text,
        name text, old text, new text, uid bigint, comm text)
$$;

-- Stores the names and digests that are not known yet. In one order everywhere, so that two nodes that
-- bring the same ones never wait for each other.
CREATE OR REPLACE FUNCTION fleet.learn(rows fleet.reported[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO fleet.ref (hash, namespace, name)
    SELECT DISTINCT ON (r.hash) r.hash, r.ns, r.name
    FROM unnest(rows) AS r LEFT JOIN fleet.ref k ON k.hash = r.hash
    WHERE k.id IS NULL ORDER BY r.hash ON CONFLICT DO NOTHING;
    INSERT INTO fleet.digest (digest)
    SELECT d.digest FROM (
        SELECT old COLLATE "C" AS digest FROM unnest(rows) UNION SELECT new FROM unnest(rows)) d
    LEFT JOIN fleet.digest k ON k.digest = d.digest
    WHERE d.digest IS NOT NULL AND k.id IS NULL ORDER BY d.digest ON CONFLICT DO NOTHING;
END $$;

-- Changes in order. Those that are here already are passed over; a gap is refused.
CREATE OR REPLACE FUNCTION fleet.take_changes(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    rows fleet.reported[];
    its_log uuid := (report->>'log')::uuid;
    after_seq bigint := (report->'after'->>'seq')::bigint;
    to_seq bigint := (report->'to'->>'seq')::bigint;
    oldest timestamptz := date_trunc('day', now() - fleet.setting('keep_changes'));
    latest timestamptz := now() + interval '1 minute';
    more integer;
BEGIN
    IF me.log IS NULL THEN RETURN fleet.answer(me, false, 'snapshot', 'first'); END IF;
    IF me.log <> its_log THEN RETURN fleet.answer(me, false, 'snapshot', 'log'); END IF;
    IF after_seq > me.seq THEN RETURN fleet.answer(me, false, 'changes', 'gap'); END IF;
    IF (after_seq = me.seq AND fleet.chain_of(report->'after'->>'chain') <> me.chain)
        OR (to_seq = me.seq AND fleet.chain_of(report->'to'->>'chain') <> me.chain) THEN
        RETURN fleet.answer(me, false, 'snapshot', 'diverged');
    END IF;
    IF to_seq <= me.seq THEN RETURN fleet.answer(me, true, 'changes'); END IF;
    rows := fleet.rows_of(report->'changes');
    IF (SELECT count(*) <> to_seq - after_seq OR count(DISTINCT seq) <> count(*)
            OR min(seq) <> after_seq + 1 OR max(seq) <> to_seq FROM unnest(rows)) THEN
        RAISE EXCEPTION 'the changes of this report are not those from % to %, each once', after_seq + 1, to_seq
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM fleet.learn(rows);
    PERFORM fleet.make_days((SELECT array_agg(DISTINCT least(r.at, latest)::date) FROM unnest(rows) r
        WHERE r.seq > me.seq AND r.at >= oldest));
    WITH r AS MATERIALIZED (
        SELECT least(r.at, latest) AS at, r.seq, ref.id AS ref, old.id AS before, new.id AS after,
            r.kind, r.origin, r.uid, r.comm
        FROM unnest(rows) AS r JOIN fleet.ref ref ON ref.hash = r.hash
        LEFT JOIN fleet.digest old ON old.digest = r.old
        LEFT JOIN fleet.digest new ON new.digest = r.new
        WHERE r.seq > me.seq
    ), kept AS (
        INSERT INTO fleet.change (at, node, epoch, seq, ref, before, after, kind, origin, uid, comm)
        SELECT at, me.id, me.epoch, seq, ref, before, after, kind, origin, uid, comm
        FROM r WHERE at >= oldest
    ), final AS (
        SELECT DISTINCT ON (ref) ref, after, seq, at,
            max(at) FILTER (WHERE before IS DISTINCT FROM after) OVER (PARTITION BY ref) AS since
        FROM r ORDER BY ref, seq DESC
    ), gone AS (
        DELETE FROM fleet.image i USING final f
        WHERE f.after IS NULL AND i.ref = f.ref AND i.node = me.id RETURNING 1
    ), put AS (
        INSERT INTO fleet.image AS i (node, ref, digest, seq, since)
        SELECT me.id, ref, after, seq, coalesce(since, at) FROM final WHERE after IS NOT NULL
        ON CONFLICT (ref, node) DO UPDATE SET digest = excluded.digest, seq = excluded.seq,
            since = CASE WHEN i.digest = excluded.digest THEN i.since ELSE excluded.since END
        RETURNING xmax = 0 AS is_new
    ) SELECT (SELECT count(*) FROM put WHERE is_new) - (SELECT count(*) FROM gone) INTO more;
    UPDATE fleet.node n SET seq = to_seq, chain = fleet.chain_of(report->'to'->>'chain'),
        last = greatest(n.last, to_seq), images = n.images + more, seen = now()
        WHERE n.id = me.id RETURNING * INTO me;
    RETURN fleet.answer(me, true, 'changes');
END $$;

-- A part of a snapshot. Part 0 begins a new one; a part may come twice.
CREATE OR REPLACE FUNCTION fleet.take_page(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rows fleet.reported[] := fleet.rows_of(report->'rows');
    token uuid := (report->>'token')::uuid;
BEGIN
    IF me.committed = token THEN RETURN fleet.answer(me, true, 'page'); END IF;
    IF me.staging IS DISTINCT FROM token THEN
        IF (report->>'page')::integer <> 0 THEN
            RETURN fleet.answer(me, false, 'snapshot', 'superseded');
        END IF;
        DELETE FROM fleet.staged s WHERE s.node = me.id;
    END IF;
    PERFORM fleet.learn(rows);
    INSERT INTO fleet.staged (node, ref, digest, since)
    SELECT me.id, ref.id, new.id, least(coalesce(r.at, now()), now())
    FROM unnest(rows) AS r JOIN fleet.ref ref ON ref.hash = r.hash
    JOIN fleet.digest new ON new.digest = r.new
    ON CONFLICT (node, ref) DO UPDATE SET digest = excluded.digest, since = excluded.since;
    UPDATE fleet.node n SET staging = token, seen = now() WHERE n.id = me.id RETURNING * INTO me;
    RETURN fleet.answer(me, true, 'page');
END $$;

-- The end of a snapshot: what it has at change seq of its log becomes what the node has.
CREATE OR REPLACE FUNCTION fleet.take_snapshot(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    token uuid := (report->>'token')::uuid;
    its_log uuid := (report->>'log')::uuid;
    at_seq bigint := (report->'at'->>'seq')::bigint;
    why text := report->>'why';
    is_anew boolean;
    total integer;
    differences integer;
BEGIN
    IF me.committed = token THEN RETURN fleet.answer(me, true, 'changes'); END IF;
    IF me.staging IS DISTINCT FROM token THEN
        RETURN fleet.answer(me, false, 'snapshot', 'superseded');
    END IF;
    SELECT count(*) INTO total FROM fleet.staged s WHERE s.node = me.id;
    IF total <> (report->>'count')::integer THEN
        RETURN fleet.answer(me, false, 'snapshot', 'incomplete');
    END IF;
    is_anew := me.log IS DISTINCT FROM its_log OR why IN ('rollback', 'diverged');
    IF NOT is_anew AND at_seq < me.seq THEN
        -- Late: what came after it is here already.
        DELETE FROM fleet.staged s WHERE s.node = me.id;
        UPDATE fleet.node n SET staging = NULL, committed = token WHERE n.id = me.id;
        RETURN fleet.answer(me, true, 'changes');
    END IF;
    IF me.log IS NOT NULL THEN
        PERFORM fleet.note(me.id, CASE WHEN me.log <> its_log THEN 'log' ELSE why END, CASE
            WHEN me.log <> its_log THEN format('its log began anew: it was %s up to change %s, and is %s',
                me.log, me.seq, its_log)
            WHEN is_anew THEN format('change %s of its log is not the one that was reported: its store was put '
                'back to an earlier state, or two machines report as this node (now %s)', me.seq, me.machine)
            ELSE format('changes %s to %s were gone from its log before they were reported; a snapshot has '
                'what they led to', me.seq + 1, at_seq) END);
    END IF;
    PERFORM fleet.make_days(ARRAY[current_date]);
    WITH difference AS MATERIALIZED (
        SELECT coalesce(s.ref, i.ref) AS ref, i.digest AS before, s.digest AS after
        FROM (SELECT * FROM fleet.staged s WHERE s.node = me.id) s
        FULL JOIN (SELECT * FROM fleet.image i WHERE i.node = me.id) i ON i.ref = s.ref
        WHERE s.digest IS DISTINCT FROM i.digest
    ), noted AS (
        -- Of a node's first snapshot all of it is new; that says nothing.
        INSERT INTO fleet.change (at, node, epoch, seq, ref, before, after, kind, origin)
        SELECT now(), me.id, me.epoch + is_anew::integer, at_seq, ref, before, after,
            CASE WHEN before IS NULL THEN 1 WHEN after IS NULL THEN 3 ELSE 2 END, 100
        FROM difference WHERE me.log IS NOT NULL
    ), gone AS (
        DELETE FROM fleet.image i USING difference d
        WHERE d.after IS NULL AND i.ref = d.ref AND i.node = me.id
    ), put AS (
        INSERT INTO fleet.image (node, ref, digest, seq, since)
        SELECT me.id, s.ref, s.digest, at_seq, s.since
        FROM fleet.staged s JOIN difference d ON d.ref = s.ref WHERE s.node = me.id
        ON CONFLICT (ref, node) DO UPDATE SET digest = excluded.digest, seq = excluded.seq,
            since = excluded.since
    ) SELECT count(*) INTO differences FROM difference;
    DELETE FROM fleet.staged s WHERE s.node = me.id;
    UPDATE fleet.node n SET log = its_log, epoch = n.epoch + is_anew::integer, seq = at_seq,
        chain = fleet.chain_of(report->'at'->>'chain'), last = greatest(at_seq, CASE WHEN is_anew THEN 0 ELSE n.last END),
        images = total, staging = NULL, committed = token, seen = now()
        WHERE n.id = me.id RETURNING * INTO me;
    RETURN fleet.answer(me, true, 'changes');
END $$;

-- A report of a node. All of it is one transaction under the lock of the node's row, so a report that is
-- repeated counts once.
CREATE OR REPLACE FUNCTION fleet.take(of_node text, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me fleet.node;
BEGIN
    IF report->>'v' IS DISTINCT FROM '1' THEN
        RAISE EXCEPTION 'a report of version % is not understood: this schema takes version 1', report->>'v'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a report needs a transaction that is READ COMMITTED, not %',
            current_setting('transaction_isolation') USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(hashtext('fleet.report'), 0);
    IF (SELECT ran < now() - interval '1 hour' FROM fleet.housekeeping) THEN
        PERFORM fleet.keep_house();
    END IF;
    SELECT * INTO me FROM fleet.node n WHERE n.name = of_node FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO fleet.node (name) VALUES (of_node) ON CONFLICT DO NOTHING;
        SELECT * INTO me FROM fleet.node n WHERE n.name = of_node FOR NO KEY UPDATE;
    END IF;
    CASE report->>'kind'
        WHEN 'hello' THEN RETURN fleet.hello(me, report);
        WHEN 'changes' THEN RETURN fleet.take_changes(me, report);
        WHEN 'page' THEN RETURN fleet.take_page(me, report);
        WHEN 'snapshot' THEN RETURN fleet.take_snapshot(me, report);
        ELSE RAISE EXCEPTION 'a report of the kind % is not understood', report->>'kind'
            USING ERRCODE = 'invalid_parameter_value';
    END CASE;
END $$;

-- The one thing that a node may do. Which node it is comes from the role that logged in.
CREATE OR REPLACE FUNCTION fleet.report(report jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT fleet.take(session_user::text, report) $$;

-- The one thing that a collector may do: hand on a report whose node was told by the broker.
CREATE OR REPLACE FUNCTION fleet.report_of(node text, report jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ SELECT fleet.take(node, report) $$;

-- Forgets a node that will not come back, all but its changes. For the owner.
CREATE OR REPLACE FUNCTION fleet.forget(node_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    me fleet.node;
BEGIN
    SELECT * INTO me FROM fleet.node WHERE name = node_name FOR UPDATE;
    IF NOT FOUND THEN RAISE EXCEPTION 'there is no node %', node_name; END IF;
    DELETE FROM fleet.staged WHERE node = me.id;
    DELETE FROM fleet.image WHERE node = me.id;
    UPDATE fleet.node SET log = NULL, images = 0, forgotten = true WHERE id = me.id;
END $$;

CREATE OR REPLACE VIEW fleet.nodes AS
    SELECT name, images, seq, greatest(last - seq, 0) AS behind, seen,
        seen < now() - fleet.setting('stale_after') AS is_stale,
        machine, version, clock_ahead, epoch, store, log, since, id
    FROM fleet.node WHERE NOT forgotten;

CREATE OR REPLACE VIEW fleet.images AS
    SELECT n.name AS node, r.namespace, r.name, d.digest, i.since, i.seq
    FROM fleet.image i JOIN fleet.node n ON n.id = i.node JOIN fleet.ref r ON r.id = i.ref
    JOIN fleet.digest d ON d.id = i.digest;

CREATE OR REPLACE VIEW fleet.changes AS
    SELECT c.at, n.name AS node, c.epoch, c.seq, r.namespace, r.name,
        (ARRAY['created', 'updated', 'deleted'])[c.kind] AS kind,
        CASE c.origin WHEN 1 THEN 'client' WHEN 2 THEN 'behind' WHEN 3 THEN 'resync' WHEN 4 THEN 'expired'
            WHEN 5 THEN 'import' WHEN 6 THEN 'undo' WHEN 7 THEN 'batch' WHEN 100 THEN 'snapshot'
            ELSE c.origin::text END AS origin,
        b.digest AS before, a.digest AS after, c.uid, c.comm
    FROM fleet.change c JOIN fleet.node n ON n.id = c.node JOIN fleet.ref r ON r.id = c.ref
    LEFT JOIN fleet.digest b ON b.id = c.before LEFT JOIN fleet.digest a ON a.id = c.after;

CREATE OR REPLACE VIEW fleet.incidents AS
    SELECT i.at, n.name AS node, i.kind, i.times, i.text
    FROM fleet.incident i JOIN fleet.node n ON n.id = i.node;

-- Rights: a role that is not named here has none.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fleet FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA fleet FROM PUBLIC;
GRANT USAGE ON SCHEMA fleet TO fleet_node, fleet_collector, fleet_reader;
GRANT EXECUTE ON FUNCTION fleet.report(jsonb) TO fleet_node;
GRANT EXECUTE ON FUNCTION fleet.report_of(text, jsonb) TO fleet_collector;
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO fleet_reader;
GRANT EXECUTE ON FUNCTION fleet.setting(text), fleet.hash_of(text, text) TO fleet_reader;
