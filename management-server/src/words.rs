//! What names may look like, wherever they come from: the file, the command line, another program.

/// The name of a token or a peer: 1 to 64 letters, digits, hyphens, dots and underscores.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.len() <= 64 && text.chars().all(plain)
}

/// What HTTP Basic can carry as a user name (RFC 7617) and what cannot be mistaken in a log.
pub(crate) fn is_user(text: &str) -> bool {
    is_line(text, ':')
}

/// Groups travel comma-separated in one header.
pub(crate) fn is_group(text: &str) -> bool {
    is_line(text, ',')
}

fn is_line(text: &str, forbidden: char) -> bool {
    let bad = |c: char| c == forbidden || c.is_control();
    !text.is_empty() && text.len() <= 255 && !text.contains(bad) && text.trim() == text
}
