-- Roles of the fleet. They have no password and cannot log in: give them to roles that can.
-- A role belongs to the whole PostgreSQL server, so it may be there already.
DO $roles$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['fleet_owner', 'fleet_node', 'fleet_collector', 'fleet_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another session made it at the same moment
            END;
        END IF;
    END LOOP;
    IF NOT pg_has_role(current_user, 'fleet_owner', 'MEMBER') THEN
        EXECUTE format('GRANT fleet_owner TO %I', current_user);
    END IF;
END
$roles$;
