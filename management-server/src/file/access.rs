use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::closest::closest;
use crate::desired::{Access, User};

use super::section::{Section, printable};
use super::values;

const BASIC: &str = "access = { basic = [\"alice\"] }";
const PRIVATE: &str = "access = { private = [\"eng\"] }";
/// What may stand in `access = { … }`, and what may one day.
const KNOWN: [&str; 2] = ["basic", "private"];
const LATER: [&str; 7] = ["groups", "peers", "oidc", "password", "pin", "link", "any"];

/// Who may enter a service; mistakes are noted.
pub(super) fn read(section: &Section<'_>, users: &BTreeMap<String, Option<User>>) -> Option<Access> {
    let Some(value) = section.value("access") else {
        section.missing(
            "access",
            format!("add `{BASIC}`, or `access = \"open\"` for everybody: nothing is open by accident"),
        );
        return None;
    };
    match value.get_ref() {
        DeValue::String(word) if word == "open" => Some(Access::Open),
        DeValue::String(word) => {
            let (message, remedy) = no_word(word);
            section.wrong(value, message, remedy);
            None
        }
        DeValue::Table(table) => of_table(section, value, table, users),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) => {
            section.wrong_type("access", value, "\"open\" or a table", BASIC);
            None
        }
    }
}

fn no_word(word: &str) -> (String, String) {
    let message = format!("`{}` is no access", printable(word));
    match closest(word, ["open"].into_iter().chain(KNOWN).chain(LATER)) {
        Some("open") => (message, "did you mean \"open\"?".to_owned()),
        Some("basic") => (message, format!("say who, as in `{BASIC}`")),
        Some("private") => (message, format!("say which groups, as in `{PRIVATE}`")),
        Some(later) => not_yet(later),
        None => (message, format!("write `access = \"open\"`, `{BASIC}` or `{PRIVATE}`")),
    }
}

fn not_yet(what: &str) -> (String, String) {
    let message = format!("access by `{what}` is not there yet in this version");
    (message, format!("use `{BASIC}`, `{PRIVATE}`, or `access = \"open\"` for everybody"))
}

fn of_table(
    section: &Section<'_>,
    value: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
    users: &BTreeMap<String, Option<User>>,
) -> Option<Access> {
    let later: Vec<_> = table.keys().filter(|key| LATER.contains(&key.get_ref().as_ref())).collect();
    for key in &later {
        let (message, remedy) = not_yet(key.get_ref());
        section.findings().add(&key.span(), message, remedy);
    }
    let known: Vec<&str> = KNOWN.into_iter().chain(later.iter().map(|key| key.get_ref().as_ref())).collect();
    let name = format!("`access` of {}", section.name());
    let inner = Section::new(section.findings(), table, value.span(), name, &known);
    if !later.is_empty() {
        return None;
    }
    match (inner.key_at("basic"), inner.key_at("private")) {
        (Some(_), None) => basic(&inner, users),
        (None, Some(_)) => private(&inner),
        (Some(_), Some(at)) => {
            let message = format!("{} has both `basic` and `private`", inner.name());
            section.findings().add(&at, message, "remove one of them");
            None
        }
        (None, None) => {
            section.wrong(value, format!("{} names nobody", inner.name()), format!("write `{BASIC}` or `{PRIVATE}`"));
            None
        }
    }
}

fn basic(section: &Section<'_>, users: &BTreeMap<String, Option<User>>) -> Option<Access> {
    let names = section.texts("basic", "basic = [\"alice\"]")?;
    if let Some(value) = section.value("basic").filter(|value| value.get_ref().as_array().is_some_and(|a| a.is_empty()))
    {
        section.wrong(
            value,
            "`basic` lists no user, so nobody could enter",
            "name at least one user, or remove the service",
        );
        return None;
    }
    let mut seen = BTreeSet::new();
    for name in &names {
        let shown = printable(name.get_ref());
        match users.get(*name.get_ref()) {
            None => {
                let remedy = match closest(name.get_ref(), users.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("add [user.{shown}] with `password = \"…\"`, or remove the name"),
                };
                section.findings().add(&name.span(), format!("there is no user `{shown}`"), remedy);
            }
            Some(Some(User { password: None, .. })) => {
                let remedy = format!("add `password = \"…\"` or `password_hash = \"$argon2id$…\"` to [user.{shown}]");
                section.findings().add(&name.span(), format!("the user `{shown}` has no password"), remedy);
            }
            Some(Some(User { password: Some(_), .. }) | None) => {
                if !seen.insert(*name.get_ref()) {
                    section.findings().add(&name.span(), format!("`{shown}` is named twice"), "remove one of them");
                }
            }
        }
    }
    Some(Access::Basic(names.into_iter().map(|name| (*name.get_ref()).to_owned()).collect()))
}

/// An empty list lets nobody in, which is what it says.
fn private(section: &Section<'_>) -> Option<Access> {
    let mut groups = BTreeSet::new();
    for group in section.parsed_list("private", "private = [\"eng\"]", values::group) {
        let at = group.span();
        let group = group.into_inner();
        if groups.contains(&group) {
            let message = format!("`{}` is named twice", printable(&group));
            section.findings().add(&at, message, "remove one of them");
        }
        groups.insert(group);
    }
    Some(Access::Private(groups))
}
