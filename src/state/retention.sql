-- Version 5: properties that are not kept as long as the others.

-- The first UTC day (since 1970-01-01) whose observations of a property have not been dropped for their age.
CREATE TABLE retention_of (
    property TEXT PRIMARY KEY,
    kept_from INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
