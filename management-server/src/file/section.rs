use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::closest::closest;

use super::mistake::Findings;

/// One table of the file, with its name for messages. A value of the wrong type is noted as a mistake and reads as
/// absent.
pub(super) struct Section<'w> {
    findings: &'w Findings<'w>,
    table: &'w DeTable<'w>,
    at: Range<usize>,
    name: String,
}

impl<'w> Section<'w> {
    /// A table of which these keys are known; every other key is a mistake.
    pub(super) fn new(
        findings: &'w Findings<'w>,
        table: &'w DeTable<'w>,
        at: Range<usize>,
        name: String,
        known: &[&str],
    ) -> Self {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let word = key.get_ref();
            let remedy = match closest(word, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; known here: {}", known.join(", ")),
            };
            findings.add(&key.span(), format!("unknown key `{}` in {name}", printable(word)), remedy);
        }
        Self { findings, table, at, name }
    }

    /// As messages call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn findings(&self) -> &'w Findings<'w> {
        self.findings
    }

    /// Where a key stands.
    pub(super) fn key_at(&self, key: &str) -> Option<Range<usize>> {
        self.table.keys().find(|candidate| candidate.get_ref() == key).map(Spanned::span)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'w Spanned<DeValue<'w>>> {
        self.table.iter().find(|(candidate, _)| candidate.get_ref() == key).map(|(_, value)| value)
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, remedy: impl Into<String>) {
        self.findings.add(&self.at, format!("{} has no `{key}`", self.name), remedy);
    }

    /// Notes a mistake in the value of a key.
    pub(super) fn wrong(&self, value: &Spanned<DeValue<'_>>, message: impl Into<String>, remedy: impl Into<String>) {
        self.findings.add(&value.span(), message, remedy);
    }

    pub(super) fn text(&self, key: &str, example: &str) -> Option<Spanned<&'w str>> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a text in quotes", example);
        }
        text.map(|text| Spanned::new(value.span(), text))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "true or false", &format!("{key} = true"));
        }
        flag
    }

    /// A whole number within bounds; `usual` is what most people want.
    pub(super) fn number(&self, key: &str, bounds: RangeInclusive<u16>, usual: u16) -> Option<u16> {
        let value = self.value(key)?;
        let example = format!("{key} = {usual}");
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a number", &example);
            return None;
        };
        let number = u16::from_str_radix(number.as_str(), number.radix()).ok().filter(|number| bounds.contains(number));
        if number.is_none() {
            let message =
                format!("`{key}` in {} is not a number from {} to {}", self.name, bounds.start(), bounds.end());
            self.wrong(value, message, format!("write it as `{example}`"));
        }
        number
    }

    /// The texts of a list; those that are none are noted and left out.
    pub(super) fn texts(&self, key: &str, example: &str) -> Option<Vec<Spanned<&'w str>>> {
        let value = self.value(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of texts", example);
            return None;
        };
        let mut texts = Vec::new();
        for item in list {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Spanned::new(item.span(), text)),
                None => self.wrong_type(key, item, "a list of texts in quotes", example),
            }
        }
        Some(texts)
    }

    /// A table below this one, as it stands.
    pub(super) fn table(&self, key: &str, example: &str) -> Option<(Range<usize>, &'w DeTable<'w>)> {
        let value = self.value(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(key, value, "a table", example);
        }
        table.map(|table| (value.span(), table))
    }

    /// A text that must parse; `parse` answers a failure with what is wrong and what to do.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let text = self.text(key, example)?;
        self.parse_one(&text, parse)
    }

    /// A list of texts each of which must parse.
    pub(super) fn parsed_list<T>(
        &self,
        key: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<Spanned<T>> {
        let texts = self.texts(key, example).unwrap_or_default();
        texts.iter().filter_map(|text| self.parse_one(text, &parse)).collect()
    }

    fn parse_one<T>(&self, text: &Spanned<&str>, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<Spanned<T>> {
        match parse(text.get_ref()) {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(Wrong { message, remedy }) => {
                self.findings.add(&text.span(), message, remedy);
                None
            }
        }
    }

    pub(super) fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str, example: &str) {
        let got = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{key}` in {} must be {wanted}, not {got}", self.name);
        self.wrong(value, message, format!("write it as `{example}`"));
    }
}

/// What is wrong with a text and what to do about it.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// A text of the file as one line of a message: short, without control characters.
pub(super) fn printable(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    short.escape_debug().to_string() + dots
}
