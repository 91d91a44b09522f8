-- What is said of devices, whether they have been heard or not.
CREATE TABLE registration (
    device TEXT PRIMARY KEY,         -- its name
    changed INTEGER NOT NULL,
    author TEXT NOT NULL,
    document TEXT NOT NULL           -- JSON
) STRICT, WITHOUT ROWID;

-- How often it speaks, as of the last trim of the log.
ALTER TABLE device ADD COLUMN rhythm BLOB;
