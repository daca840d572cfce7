DO $schema$
BEGIN
    IF to_regnamespace('fleet') IS NULL THEN
        CREATE SCHEMA fleet AUTHORIZATION fleet_owner;
    END IF;
END
$schema$;
SET LOCAL ROLE fleet_owner;
SET LOCAL search_path = pg_catalog, pg_temp;
CREATE TABLE IF NOT EXISTS fleet.version (
    version integer PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);
