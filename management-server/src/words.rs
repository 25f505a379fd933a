//! What names may look like, wherever they come from: the file, the command line, another program.

/// The name of a token or a peer: 1 to 64 letters, digits, hyphens, dots and underscores, a letter or digit first, so that
/// it is taken neither for a flag nor for a step in a path.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 64 && text.chars().all(plain)
}

/// What HTTP Basic can carry as a user name (RFC 7617) and what cannot be mistaken in a log.
pub(crate) fn is_user(text: &str) -> bool {
    is_line(text, ':')
}

/// Groups travel comma-separated in one header.
pub(crate) fn is_group(text: &str) -> bool {
    is_line(text, ',')
}

/// Whether a proxy can say it to upstreams: NetBird leaves a field away that has anything else in it.
pub(crate) fn is_sayable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

fn is_line(text: &str, forbidden: char) -> bool {
    let bad = |c: char| c == forbidden || c.is_control();
    !text.is_empty() && text.len() <= 255 && !text.contains(bad) && text.trim() == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_with_a_letter_or_a_digit() {
        for name in ["a", "7", "Laptop-2.home_x", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "...", "-", "-a", "_a", ".a", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn what_upstreams_hear_is_ascii() {
        assert!(is_sayable("you@example.com") && is_sayable("Zoe O'Neill\t"));
        assert!(!is_sayable("Zoë") && !is_sayable("a\u{7f}"));
    }
}
