-- Passwords that the configuration file holds in clear leave no hash here: a random revision stands for each, and one hash
-- over all of them tells at the next start whether they are still the same.
DROP TABLE users;
CREATE TABLE users (
    account  TEXT NOT NULL,
    name     TEXT NOT NULL,
    revision BLOB NOT NULL,
    PRIMARY KEY (account, name)
) STRICT;

CREATE TABLE seals (
    account TEXT PRIMARY KEY,
    seal    TEXT NOT NULL
) STRICT;
