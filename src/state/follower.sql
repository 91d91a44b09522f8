-- Version 3: stores beside the lake follow the log too.

-- Up to which phenomenon time such a store has copied what the lake held when it was attached; null once it has all.
ALTER TABLE follower ADD COLUMN copied INTEGER;
