use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One thing that is wrong in a file, for the person who wrote it. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}; {}", self.line, self.column, self.message, self.remedy)
    }
}

/// The text being walked and what was found wrong in it so far.
pub(super) struct Findings<'t> {
    text: &'t str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    found: RefCell<Vec<Mistake>>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let after_each_break = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(after_each_break).collect(), found: RefCell::default() }
    }

    /// Notes a mistake at a place given in bytes.
    pub(super) fn add(&self, at: &Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        let (line, column) = self.position(at.start);
        self.found.borrow_mut().push(Mistake { line, column, message: message.into(), remedy: remedy.into() });
    }

    /// Line and column, from 1, of a byte; a byte inside a character counts as that character.
    pub(super) fn position(&self, byte: usize) -> (usize, usize) {
        let mut end = byte.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= end);
        (line, self.text[self.lines[line - 1]..end].chars().count() + 1)
    }

    /// All of them, in the order of the text.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|mistake| (mistake.line, mistake.column));
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_count_characters() {
        let findings = Findings::new("a = 1\nüü = x\n");
        assert_eq!(findings.position(0), (1, 1));
        assert_eq!(findings.position(6), (2, 1));
        assert_eq!(findings.position("a = 1\nüü = ".len()), (2, 6));
        assert_eq!(findings.position(7), (2, 1), "inside a character");
        assert_eq!(findings.position(999), (3, 1), "past the end");
    }

    proptest! {
        /// The reference reads the text from its beginning.
        #[test]
        fn positions_are_those_of_a_reader(text in "[a\nü\r]{0,40}", byte in 0..60_usize) {
            let (mut line, mut column) = (1, 1);
            for (_, c) in text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= byte) {
                (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
            }
            prop_assert_eq!(Findings::new(&text).position(byte), (line, column));
        }
    }

    /// To look for each from the beginning of the text would take minutes.
    #[test]
    fn a_hundred_thousand_mistakes_are_found_in_one_reading() {
        let text = "wrong = 1\n".repeat(200_000);
        let findings = Findings::new(&text);
        for line in 0..200_000 {
            findings.add(&(line * 10..line * 10 + 5), "wrong", "");
        }
        let mistakes = findings.into_mistakes();
        assert_eq!((mistakes.len(), mistakes.last().map(|last| last.line)), (200_000, Some(200_000)));
    }
}
