-- Version 5: rollups are copied to stores beside the lake.

-- Whether it is noted which of the lake's rollups such a store lacks; until then it may lack any.
ALTER TABLE follower ADD COLUMN rollups INTEGER NOT NULL DEFAULT 0;

-- Local days (since 1970-01-01) and properties whose rollups such a store lacks, or has as they were before; moments only grow.
CREATE TABLE rollup_uncopied (
    store TEXT NOT NULL,
    property TEXT NOT NULL,
    day INTEGER NOT NULL,
    moment INTEGER NOT NULL,
    PRIMARY KEY (store, property, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollup_uncopied_moment ON rollup_uncopied (moment);

-- Such a store has what is suspect in a field of its own from now on: it is filled anew.
UPDATE follower SET copied = -2208988800000000 WHERE store <> 'lake';
