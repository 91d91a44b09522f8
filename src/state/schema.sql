-- Version 1 of the state database. A later version is a further file; this one never changes once released.

-- The life of the log that the stores follow: a new identity whenever the log begins anew.
CREATE TABLE incarnation (id TEXT NOT NULL) STRICT;

CREATE TABLE device (
    id INTEGER PRIMARY KEY,          -- dense, from 0
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    domain TEXT NOT NULL,
    first_seen INTEGER NOT NULL      -- microseconds since 1970, as every time here
) STRICT;

CREATE TABLE series (
    id INTEGER PRIMARY KEY,          -- dense, from 0
    device INTEGER NOT NULL REFERENCES device (id),
    property TEXT NOT NULL,
    mark BLOB                        -- as of the last trim of the log
) STRICT;

-- One row a commit. Its number is the commit's, never used twice; its digests tell what is delivered again.
CREATE TABLE batch (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    digests BLOB NOT NULL
) STRICT;

-- The intake log's two lanes: what stores do not yet hold durably.
CREATE TABLE log_ordered (sequence INTEGER PRIMARY KEY, block BLOB NOT NULL) STRICT;
CREATE TABLE log_late (sequence INTEGER PRIMARY KEY, block BLOB NOT NULL) STRICT;

-- How far each store has come in each lane.
CREATE TABLE follower (
    store TEXT PRIMARY KEY,
    ordered INTEGER NOT NULL,
    late INTEGER NOT NULL
) STRICT;

-- What the ledger will say once a store's merge of late rows is durable: written before, applied after.
CREATE TABLE merge_plan (
    store TEXT PRIMARY KEY,
    late INTEGER NOT NULL,
    moves TEXT NOT NULL
) STRICT;

CREATE TABLE ledger (
    source TEXT NOT NULL,
    hour INTEGER NOT NULL,
    received INTEGER NOT NULL, accepted INTEGER NOT NULL, rejected INTEGER NOT NULL, repeated INTEGER NOT NULL, shed INTEGER NOT NULL,
    readings INTEGER NOT NULL, stored INTEGER NOT NULL, duplicate INTEGER NOT NULL, corrected INTEGER NOT NULL,
    quarantined INTEGER NOT NULL, pending INTEGER NOT NULL,
    PRIMARY KEY (source, hour)
) STRICT, WITHOUT ROWID;

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    received INTEGER NOT NULL,
    source TEXT NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,           -- as received
    whole INTEGER NOT NULL,          -- 1: nothing of the message was stored
    reason TEXT NOT NULL,            -- of the first fault
    faults TEXT NOT NULL             -- JSON array of {reason, at, detail}
) STRICT;
CREATE INDEX quarantine_reason ON quarantine (reason, id);

-- Where each rule stands with each device; the engine's own form.
CREATE TABLE condition (
    rule TEXT NOT NULL,
    device TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (rule, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE alert (
    id TEXT PRIMARY KEY,
    activated INTEGER NOT NULL,
    status TEXT NOT NULL,
    alert TEXT NOT NULL
) STRICT;
CREATE INDEX alert_activated ON alert (activated);
CREATE INDEX alert_status ON alert (status, activated);

-- Every transition of an alert, in order: what is to be told to people.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert TEXT NOT NULL,
    transition TEXT NOT NULL
) STRICT;

-- The documents that were put in place through the API; the newest counts.
CREATE TABLE rules (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    created INTEGER NOT NULL,
    author TEXT NOT NULL,
    document TEXT NOT NULL
) STRICT;
