use std::fmt::Display;

/// A field of a message that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    field: String,
    why: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, why: impl Display) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }

    /// The same, seen from the message that holds it.
    pub(super) fn within(self, outer: impl Display) -> Self {
        Self { field: format!("{outer}.{}", self.field), why: self.why }
    }

    /// The field's path in the message, in the names of the `.proto` file: `path[0].options.request_timeout`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// The beginning of a text from the wire, quoted and escaped, for a sentence about it.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
