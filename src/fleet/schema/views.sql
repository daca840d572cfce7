-- What the owner calls, what readers see, and the rights of all roles.

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
