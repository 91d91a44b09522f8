-- Version 2, fields that no mapping knows: what an operator may want to map.
CREATE TABLE unmapped (
    source TEXT NOT NULL,
    decoder TEXT NOT NULL,
    model TEXT NOT NULL,
    field TEXT NOT NULL,
    why TEXT NOT NULL,
    count INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    device TEXT NOT NULL,            -- the last that sent it
    example TEXT NOT NULL,           -- what it held
    PRIMARY KEY (source, decoder, model, field)
) STRICT;
CREATE INDEX unmapped_last ON unmapped (last);
