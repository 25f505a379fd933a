-- Times are seconds since 1970, UTC.

-- One row: how often the desired state has changed.
CREATE TABLE revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0),
    value    INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (0, 0);

-- What proxies prove themselves by. The token itself is not here.
CREATE TABLE tokens (
    name      TEXT PRIMARY KEY,
    account   TEXT NOT NULL,
    hash      TEXT NOT NULL UNIQUE,
    created   INTEGER NOT NULL,
    last_used INTEGER
) STRICT;

-- Argon2id hashes of passwords that the configuration file holds in clear: kept so that the same password has the same
-- hash after a restart, which keeps the sessions that it opened.
CREATE TABLE users (
    account       TEXT NOT NULL,
    name          TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT;

-- The key that signs the sessions of a service, and the access it was made for.
CREATE TABLE session_keys (
    account TEXT NOT NULL,
    service TEXT NOT NULL,
    access  BLOB NOT NULL,
    seed    BLOB NOT NULL,
    PRIMARY KEY (account, service)
) STRICT;

-- The newest report of each proxy on each service.
CREATE TABLE statuses (
    account            TEXT NOT NULL,
    service            TEXT NOT NULL,
    proxy              TEXT NOT NULL,
    state              TEXT NOT NULL,
    certificate_issued INTEGER NOT NULL,
    error              TEXT,
    reported           INTEGER NOT NULL,
    PRIMARY KEY (account, service, proxy)
) STRICT;

-- Proxies that have opened a mapping stream.
CREATE TABLE proxies (
    account   TEXT NOT NULL,
    id        TEXT NOT NULL,
    token     TEXT NOT NULL,
    address   TEXT NOT NULL,
    version   TEXT NOT NULL,
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT;
