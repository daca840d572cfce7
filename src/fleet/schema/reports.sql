-- The functions that a node calls, and that a collector calls for a node.
--
-- The entry points are fleet.report and fleet.report_of: they set the search path, and the functions that they call
-- inherit it. PostgreSQL plans a function in SQL at each call, unless it can inline the function as one expression. So
-- the functions of a report are in PL/pgSQL, which keeps its plans as long as the connection.

-- The answer to a report. ok: it is in the tables. want: what the node should send next.
CREATE OR REPLACE FUNCTION fleet.answer(me fleet.node, ok boolean, want text, why text DEFAULT NULL)
RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('ok', ok, 'want', want, 'why', why, 'log', me.log,
        'seq', me.seq, 'epoch', me.epoch))
$$;

-- A hello: the node reports the end of its log. The answer says what is wanted next: changes from seq on, or a
-- snapshot, and why.
CREATE OR REPLACE FUNCTION fleet.hello(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
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

-- Stores the names and digests that are not known yet, and skips NULL. The order is the same everywhere, so that two
-- nodes that report the same names never wait for each other.
CREATE OR REPLACE FUNCTION fleet.learn(namespaces text[], names text[], digests text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fleet.ref (hash, namespace, name)
    SELECT DISTINCT ON (1) fleet.hash_of(r.ns, r.name), r.ns, r.name
    FROM unnest(namespaces, names) AS r(ns, name) WHERE r.name IS NOT NULL ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO fleet.digest (digest)
    SELECT DISTINCT d COLLATE "C" FROM unnest(digests) AS d WHERE d IS NOT NULL ORDER BY 1 ON CONFLICT DO NOTHING;
END $$;

-- Changes in order. The function skips changes that the tables have already, and refuses a gap.
CREATE OR REPLACE FUNCTION fleet.take_changes(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    rows fleet.resolved[];
    its_log uuid := (report->>'log')::uuid;
    after_seq bigint := (report->'after'->>'seq')::bigint;
    to_seq bigint := (report->'to'->>'seq')::bigint;
    oldest timestamptz;
    latest timestamptz := now() + interval '1 minute';
    is_each_once boolean;
    has_unknown boolean;
    namespaces text[];
    names text[];
    olds text[];
    news text[];
    first_day date;
    last_day date;
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
    SELECT date_trunc('day', now() - value::interval, 'UTC') INTO oldest
        FROM fleet.setting WHERE name = 'keep_changes';
    -- Each name and digest is looked up by its index, even while the tables are new and the planner does not know their
    -- sizes. Most of them are known, because other nodes have them. The arrays of texts have the unknown ones, and NULL
    -- for the known ones.
    SELECT array_agg(ROW(r.seq, r.at, r.kind, r.origin, r.ref, r.before, r.after, r.uid, r.comm)::fleet.resolved)
            FILTER (WHERE r.seq > me.seq),
        count(*) = to_seq - after_seq AND count(DISTINCT r.seq) = count(*)
            AND min(r.seq) = after_seq + 1 AND max(r.seq) = to_seq,
        array_agg(CASE WHEN r.ref IS NULL THEN r.ns END) FILTER (WHERE r.seq > me.seq),
        array_agg(CASE WHEN r.ref IS NULL THEN r.name END) FILTER (WHERE r.seq > me.seq),
        array_agg(CASE WHEN r.before IS NULL THEN r.old END) FILTER (WHERE r.seq > me.seq),
        array_agg(CASE WHEN r.after IS NULL THEN r.new END) FILTER (WHERE r.seq > me.seq),
        bool_or(r.ref IS NULL OR (r.before IS NULL AND r.old IS NOT NULL) OR (r.after IS NULL AND r.new IS NOT NULL))
            FILTER (WHERE r.seq > me.seq),
        (min(r.at) FILTER (WHERE r.seq > me.seq AND r.at >= oldest) AT TIME ZONE 'UTC')::date,
        (max(r.at) FILTER (WHERE r.seq > me.seq AND r.at >= oldest) AT TIME ZONE 'UTC')::date
    INTO rows, is_each_once, namespaces, names, olds, news, has_unknown, first_day, last_day
    FROM (
        SELECT c.seq, least(c.at, latest) AS at, c.kind, c.origin, c.ns, c.name, c.old, c.new, c.uid, c.comm,
            (SELECT k.id FROM fleet.ref k WHERE k.hash = fleet.hash_of(c.ns, c.name)) AS ref,
            (SELECT k.id FROM fleet.digest k WHERE k.digest = c.old) AS before,
            (SELECT k.id FROM fleet.digest k WHERE k.digest = c.new) AS after
        FROM jsonb_to_recordset(report->'changes') AS c(seq bigint, at timestamptz, kind smallint,
            origin smallint, ns text, name text, old text, new text, uid bigint, comm text)
        -- Keeps the planner from looking up an id again at each use above.
        OFFSET 0) r;
    IF is_each_once IS NOT TRUE THEN
        RAISE EXCEPTION 'the changes of this report are not those from % to %, each once', after_seq + 1, to_seq
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF has_unknown THEN
        PERFORM fleet.learn(namespaces, names, olds || news);
        SELECT array_agg(ROW(r.seq, r.at, r.kind, r.origin,
            coalesce(r.ref, (SELECT k.id FROM fleet.ref k WHERE k.hash = fleet.hash_of(r.ns, r.name))),
            coalesce(r.before, (SELECT k.id FROM fleet.digest k WHERE k.digest = r.old)),
            coalesce(r.after, (SELECT k.id FROM fleet.digest k WHERE k.digest = r.new)),
            r.uid, r.comm)::fleet.resolved)
        INTO rows
        FROM ROWS FROM (unnest(rows), unnest(namespaces), unnest(names), unnest(olds), unnest(news))
            AS r(seq, at, kind, origin, ref, before, after, uid, comm, ns, name, old, new);
        IF EXISTS (SELECT FROM unnest(rows) AS r WHERE r.ref IS NULL) THEN
            RAISE EXCEPTION 'a change of this report lacks its namespace or its name'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    IF first_day = last_day THEN
        -- Almost always the partition of the day exists.
        IF to_regclass('fleet.change_' || to_char(first_day, 'YYYYMMDD')) IS NULL THEN
            PERFORM fleet.make_days(ARRAY[first_day]);
        END IF;
    ELSIF first_day IS NOT NULL THEN
        PERFORM fleet.make_days((SELECT array_agg(DISTINCT (r.at AT TIME ZONE 'UTC')::date)
            FROM unnest(rows) AS r WHERE r.at >= oldest));
    END IF;
    WITH kept AS (
        INSERT INTO fleet.change (at, node, epoch, seq, ref, before, after, kind, origin, uid, comm)
        SELECT r.at, me.id, me.epoch, r.seq, r.ref, r.before, r.after, r.kind, r.origin, r.uid, r.comm
        FROM unnest(rows) AS r WHERE r.at >= oldest
    ), final AS (
        SELECT DISTINCT ON (r.ref) r.ref, r.after, r.seq, r.at,
            max(r.at) FILTER (WHERE r.before IS DISTINCT FROM r.after) OVER (PARTITION BY r.ref) AS since
        FROM unnest(rows) AS r ORDER BY r.ref, r.seq DESC
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
LANGUAGE plpgsql AS $$
DECLARE
    namespaces text[];
    names text[];
    digests text[];
    refs integer[];
    ids integer[];
    times timestamptz[];
    has_unknown boolean;
    token uuid := (report->>'token')::uuid;
BEGIN
    IF me.committed = token THEN RETURN fleet.answer(me, true, 'page'); END IF;
    IF me.staging IS DISTINCT FROM token THEN
        IF (report->>'page')::integer <> 0 THEN
            RETURN fleet.answer(me, false, 'snapshot', 'superseded');
        END IF;
        DELETE FROM fleet.staged s WHERE s.node = me.id;
    END IF;
    -- Look-ups as in take_changes.
    SELECT array_agg(r.ref), array_agg(r.digest), array_agg(least(coalesce(r.at, now()), now())),
        array_agg(CASE WHEN r.ref IS NULL THEN r.ns END), array_agg(CASE WHEN r.ref IS NULL THEN r.name END),
        array_agg(CASE WHEN r.digest IS NULL THEN r.new END), bool_or(r.ref IS NULL OR r.digest IS NULL)
    INTO refs, ids, times, namespaces, names, digests, has_unknown FROM (
        SELECT i.ns, i.name, i.new, i.at,
            (SELECT k.id FROM fleet.ref k WHERE k.hash = fleet.hash_of(i.ns, i.name)) AS ref,
            (SELECT k.id FROM fleet.digest k WHERE k.digest = i.new) AS digest
        FROM jsonb_to_recordset(report->'rows') AS i(ns text, name text, new text, at timestamptz) OFFSET 0) r;
    IF has_unknown THEN
        PERFORM fleet.learn(namespaces, names, digests);
    END IF;
    INSERT INTO fleet.staged (node, ref, digest, since)
    SELECT me.id,
        coalesce(r.ref, (SELECT k.id FROM fleet.ref k WHERE k.hash = fleet.hash_of(r.ns, r.name))),
        coalesce(r.digest, (SELECT k.id FROM fleet.digest k WHERE k.digest = r.new)), r.at
    FROM unnest(refs, ids, times, namespaces, names, digests) AS r(ref, digest, at, ns, name, new)
    ON CONFLICT (node, ref) DO UPDATE SET digest = excluded.digest, since = excluded.since;
    UPDATE fleet.node n SET staging = token, seen = now() WHERE n.id = me.id RETURNING * INTO me;
    RETURN fleet.answer(me, true, 'page');
END $$;

-- The end of a snapshot: its images become the inventory of the node, as of change seq of its log.
CREATE OR REPLACE FUNCTION fleet.take_snapshot(me fleet.node, report jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
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
        -- The snapshot is late: the tables have later changes already.
        DELETE FROM fleet.staged s WHERE s.node = me.id;
        UPDATE fleet.node n SET staging = NULL, committed = token WHERE n.id = me.id;
        RETURN fleet.answer(me, true, 'changes');
    END IF;
    IF is_anew AND me.log IS NOT NULL THEN
        PERFORM fleet.note(me.id, CASE WHEN me.log <> its_log THEN 'log' ELSE why END, CASE
            WHEN me.log <> its_log THEN format('its log began anew: it was %s up to change %s, and is %s',
                me.log, me.seq, its_log)
            ELSE format('change %s of its log is not the one that was reported: its store was put '
                'back to an earlier state, or two machines report as this node (now %s)', me.seq, me.machine) END);
    ELSIF at_seq > me.seq AND me.log IS NOT NULL THEN
        PERFORM fleet.note(me.id, 'compacted', format('changes %s to %s did not come: they were gone from its log '
            'before they were reported, or the reports were lost on the way; a snapshot has what they led to',
            me.seq + 1, at_seq));
    END IF;
    PERFORM fleet.make_days(ARRAY[(now() AT TIME ZONE 'UTC')::date]);
    WITH difference AS MATERIALIZED (
        SELECT coalesce(s.ref, i.ref) AS ref, i.digest AS before, s.digest AS after
        FROM (SELECT * FROM fleet.staged s WHERE s.node = me.id) s
        FULL JOIN (SELECT * FROM fleet.image i WHERE i.node = me.id) i ON i.ref = s.ref
        WHERE s.digest IS DISTINCT FROM i.digest
    ), noted AS (
        -- Every image of a node's first snapshot would be a change, so that snapshot writes none.
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

-- A report of a node. It is one transaction under the lock of the node's row, so a repeated report counts once.
CREATE OR REPLACE FUNCTION fleet.take(of_node text, report jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    me fleet.node;
    field text;
BEGIN
    IF report->>'v' IS DISTINCT FROM '1' THEN
        RAISE EXCEPTION 'a report of version % is not understood: this schema takes version 1', report->>'v'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a report needs a transaction that is READ COMMITTED, not %',
            current_setting('transaction_isolation') USING ERRCODE = 'invalid_transaction_state';
    END IF;
    FOREACH field IN ARRAY CASE report->>'kind'
        WHEN 'hello' THEN ARRAY['log', 'store', 'head.first', 'head.last', 'head.chain']
        WHEN 'changes' THEN ARRAY['log', 'after.seq', 'to.seq', 'to.chain', 'changes']
        WHEN 'page' THEN ARRAY['token', 'page', 'rows']
        WHEN 'snapshot' THEN ARRAY['log', 'token', 'count', 'why', 'at.seq']
        ELSE ARRAY['kind: hello, changes, page or snapshot'] END
    LOOP
        -- Not #>>: it would write all changes as text.
        IF coalesce(jsonb_typeof(report #> string_to_array(field, '.')), 'null') = 'null' THEN
            RAISE EXCEPTION 'the report lacks %', field USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
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
    END CASE;
END $$;

-- The only function that a node may call. The role that logged in is the node.
CREATE OR REPLACE FUNCTION fleet.report(report jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ BEGIN RETURN fleet.take(session_user::text, report); END $$;

-- The only function that a collector may call: it hands on a report of the node that the broker names.
CREATE OR REPLACE FUNCTION fleet.report_of(node text, report jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$ BEGIN RETURN fleet.take(node, report); END $$;
