use std::collections::BTreeMap;

use postern_model::Secret;

use crate::desired::{Password, User};

use super::section::{Section, Wrong};
use super::values;

const KNOWN: [&str; 3] = ["password", "password_hash", "groups"];

/// Every `[user.…]`. A user with a mistake is there too as `None`: somebody who is named is not unknown.
pub(super) fn read(root: &Section<'_>) -> BTreeMap<String, Option<User>> {
    let Some((_, table)) = root.table("user", "[user.alice]") else { return BTreeMap::new() };
    let mut users = BTreeMap::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if let Err(Wrong { message, remedy }) = values::user_name(name) {
            root.findings().add(&key.span(), message, remedy);
        }
        let user = match value.get_ref().as_table() {
            Some(table) => {
                let title = format!("[user.{}]", super::section::printable(name));
                user(&Section::new(root.findings(), table, value.span(), title, &KNOWN))
            }
            None => {
                root.wrong_type(&format!("user.{name}"), value, "a table", "[user.alice]");
                None
            }
        };
        users.insert(name.to_owned(), user);
    }
    users
}

fn user(section: &Section<'_>) -> Option<User> {
    let groups = section.parsed_list("groups", "groups = [\"staff\"]", values::group);
    let groups = groups.into_iter().map(toml::Spanned::into_inner).collect();
    Some(User { password: password(section)?, groups })
}

/// `Some(None)` for a user without a password, `None` for a mistake.
fn password(section: &Section<'_>) -> Option<Option<Password>> {
    let plain = section.parsed("password", "password = \"…\"", |text| match text {
        "" => Err(Wrong::new("the password is empty", "choose one that cannot be guessed")),
        text if text.len() > 1024 => Err(Wrong::new("the password is too long", "use at most 1024 bytes")),
        text if text.contains(char::is_control) => {
            Err(Wrong::new("the password has a control character", "HTTP Basic cannot carry it: choose another"))
        }
        text => Ok(Password::Plain(Secret::from(text))),
    });
    let hash = section.parsed("password_hash", "password_hash = \"$argon2id$…\"", |text| {
        match postern_auth::password::PasswordHash::parse(text) {
            Ok(_) => Ok(Password::Hash(Secret::from(text))),
            Err(error) => Err(Wrong::new(
                format!("the password hash cannot be used: {error}"),
                "write an Argon2id hash such as `$argon2id$v=19$m=19456,t=2,p=1$…`, or `password` in its place",
            )),
        }
    });
    match (section.value("password"), section.value("password_hash")) {
        (Some(_), Some(second)) => {
            section.wrong(
                second,
                format!("{} has both `password` and `password_hash`", section.name()),
                "remove one of them",
            );
            None
        }
        (None, None) => Some(None),
        (Some(_), None) | (None, Some(_)) => plain.or(hash).map(|password| Some(password.into_inner())),
    }
}
