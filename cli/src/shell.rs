/// Writes a word so that a POSIX shell reads it as it is.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// This program as the user called it, so that a printed line can be pasted.
pub(crate) fn program() -> String {
    quoted(&std::env::args().next().unwrap_or_else(|| "postern".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("/data/ca.pem"), "/data/ca.pem");
        assert_eq!(quoted("/my data/ca.pem"), "'/my data/ca.pem'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
