-- Version 4: rollups.

-- Local days (since 1970-01-01) and properties of which rollups may not be what the table's observations come to.
CREATE TABLE rollup_touched (
    day INTEGER NOT NULL,
    property TEXT NOT NULL,
    PRIMARY KEY (day, property)
) STRICT, WITHOUT ROWID;

-- The first UTC day (since 1970-01-01) whose observations have not been dropped for their age.
CREATE TABLE retention (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    kept_from INTEGER NOT NULL
) STRICT;
