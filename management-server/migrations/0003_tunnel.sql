-- The network that each account's tunnel has, and the newest generation that a peer of it was given.
CREATE TABLE networks (
    account    TEXT PRIMARY KEY,
    range      TEXT NOT NULL,
    generation INTEGER NOT NULL
) STRICT;

-- Who has a place in an account's tunnel. The number is the place of both its addresses in the network.
CREATE TABLE peers (
    account    TEXT NOT NULL,
    number     INTEGER NOT NULL,
    key        BLOB NOT NULL,
    generation INTEGER NOT NULL,
    -- JSON: a device that somebody added, or a proxy.
    role       TEXT NOT NULL,
    PRIMARY KEY (account, number),
    UNIQUE (account, key)
) STRICT;

-- Places that somebody had, and since when nobody has: another gets them only after a while.
CREATE TABLE released (
    account TEXT NOT NULL,
    number  INTEGER NOT NULL,
    since   INTEGER NOT NULL,
    PRIMARY KEY (account, number)
) STRICT;
