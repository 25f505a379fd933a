//! Peers in the database.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use postern_model::{AccountId, Generation, PublicKey};
use sqlx::{Row, SqliteConnection};

use crate::peer::{Delta, Kept, Peer};

/// What is kept of every account's tunnel.
pub(crate) async fn read(db: &mut SqliteConnection) -> Result<BTreeMap<AccountId, Kept>, sqlx::Error> {
    let mut all = BTreeMap::new();
    for row in sqlx::query("SELECT account, range, generation FROM networks").fetch_all(&mut *db).await? {
        let range = row.try_get::<&str, _>("range")?.parse::<Ipv4Net>().map_err(decode)?;
        let generation = generation(&row)?;
        let kept = Kept { range, generation, peers: BTreeMap::new(), released: BTreeMap::new() };
        all.insert(account(&row)?, kept);
    }
    for row in sqlx::query("SELECT account, number, key, generation, role FROM peers").fetch_all(&mut *db).await? {
        let key: &[u8] = row.try_get("key")?;
        let key = PublicKey(key.try_into().map_err(decode)?);
        let role = serde_json::from_str(row.try_get("role")?).map_err(decode)?;
        let peer = Peer { key, generation: generation(&row)?, role };
        of(&mut all, &row)?.peers.insert(row.try_get("number")?, peer);
    }
    for row in sqlx::query("SELECT account, number, since FROM released").fetch_all(&mut *db).await? {
        of(&mut all, &row)?.released.insert(row.try_get("number")?, row.try_get("since")?);
    }
    Ok(all)
}

/// Within the caller's transaction: all of it or nothing is written.
pub(crate) async fn write(db: &mut SqliteConnection, account: &AccountId, delta: &Delta) -> Result<(), sqlx::Error> {
    let account = account.as_str();
    if let Some((range, generation)) = &delta.network {
        let insert = sqlx::query("INSERT OR REPLACE INTO networks VALUES (?, ?, ?)").bind(account);
        insert.bind(range.to_string()).bind(signed(*generation)).execute(&mut *db).await?;
    }
    // What goes comes first, so that its key is free.
    for number in &delta.gone {
        let delete = sqlx::query("DELETE FROM peers WHERE account = ? AND number = ?").bind(account);
        delete.bind(number).execute(&mut *db).await?;
    }
    for (number, peer) in &delta.put {
        let role = serde_json::to_string(&peer.role).map_err(|error| sqlx::Error::Encode(error.into()))?;
        // No `OR REPLACE`: of two peers with one key it would silently take one away.
        sqlx::query(
            "INSERT INTO peers VALUES (?, ?, ?, ?, ?) ON CONFLICT (account, number) \
             DO UPDATE SET key = excluded.key, generation = excluded.generation, role = excluded.role",
        )
        .bind(account)
        .bind(number)
        .bind(&peer.key.0[..])
        .bind(signed(peer.generation))
        .bind(role)
        .execute(&mut *db)
        .await?;
    }
    for number in &delta.taken {
        let delete = sqlx::query("DELETE FROM released WHERE account = ? AND number = ?").bind(account);
        delete.bind(number).execute(&mut *db).await?;
    }
    for (number, since) in &delta.released {
        let insert = sqlx::query("INSERT OR REPLACE INTO released VALUES (?, ?, ?)").bind(account);
        insert.bind(number).bind(since).execute(&mut *db).await?;
    }
    Ok(())
}

fn account(row: &sqlx::sqlite::SqliteRow) -> Result<AccountId, sqlx::Error> {
    AccountId::parse(row.try_get("account")?).map_err(decode)
}

fn of<'k>(all: &'k mut BTreeMap<AccountId, Kept>, row: &sqlx::sqlite::SqliteRow) -> Result<&'k mut Kept, sqlx::Error> {
    all.get_mut(&account(row)?).ok_or_else(|| sqlx::Error::Decode("a peer of an account without a network".into()))
}

fn generation(row: &sqlx::sqlite::SqliteRow) -> Result<Generation, sqlx::Error> {
    row.try_get::<i64, _>("generation").map(|generation| Generation(generation.cast_unsigned()))
}

fn signed(generation: Generation) -> i64 {
    generation.0.cast_signed()
}

fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
