-- Version 2, the quarantine: what a replay needs to know, and who discarded what.

-- Readings of it that the ledger counts as quarantined. Of messages that were refused as a whole before, that number was
-- not kept: a replay counts them from nothing.
ALTER TABLE quarantine ADD COLUMN readings INTEGER NOT NULL DEFAULT 0;
UPDATE quarantine SET readings = json_array_length(faults) WHERE NOT whole;

-- Not worth a replay: since when, who says so, and why.
ALTER TABLE quarantine ADD COLUMN discarded INTEGER;
ALTER TABLE quarantine ADD COLUMN discarded_by TEXT;
ALTER TABLE quarantine ADD COLUMN comment TEXT;
