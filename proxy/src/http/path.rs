//! The path of a request in its one canonical form, and the prefixes it is matched against.
//!
//! Servers disagree about what a path means: whether `%2F` separates segments, whether `//` is `/`, whether `;x` belongs
//! to a segment. What every server resolves away or refuses (dot segments, control characters) is refused here; for the
//! rest, [`Path::readings`] lists what others could read, so that a path is routed only if all of them agree.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::error::BadRequest;

/// Longer ones, counted in canonical form, are refused: nobody types them, and each costs as many looks as it has readings.
const MAX_PATH: usize = 8 * 1024;

/// Paths with more are routed nowhere: ordinary ones have one reading, strange ones four, and only an attacker needs all.
const MAX_READINGS: usize = 32;

/// A path in canonical form (RFC 3986 §6.2.2): unreserved characters decoded, everything that may not stand in a path
/// encoded, hexadecimal digits in capitals; no dot segment in any reading. These bytes are matched, logged and forwarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(Arc<str>);

impl Path {
    /// Brings the path of a request target, without its query, into canonical form.
    ///
    /// # Errors
    /// [`BadRequest`] for what some server would resolve, cut or misread.
    pub(crate) fn parse(raw: &str) -> Result<Self, BadRequest> {
        if !raw.starts_with('/') {
            return Err(BadRequest::Target);
        }
        let text = canonical_text(raw)?;
        if text.len() > MAX_PATH {
            return Err(BadRequest::Target);
        }
        if has_overlong(&text) {
            return Err(BadRequest::PathOverlong);
        }
        if has_dots(&text) {
            return Err(BadRequest::PathDots);
        }
        Ok(Self(text.into()))
    }

    /// The target of `OPTIONS *`: it has no segments.
    pub(crate) fn asterisk() -> Self {
        Self("*".into())
    }

    /// The canonical form, beginning with `/`, or `*`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The canonical form, shared.
    pub(crate) fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Whether the first segments of this path are those of `prefix`.
    pub(crate) fn starts_with(&self, prefix: &Prefix) -> bool {
        self.after(prefix).is_some()
    }

    /// What follows `prefix`: empty, or beginning with `/`. `None` where it does not match.
    pub(crate) fn after(&self, prefix: &Prefix) -> Option<&str> {
        let rest = self.0.strip_prefix(&*prefix.0)?;
        (prefix.is_root() || rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// The other ways in which servers could read this path, each in canonical form; empty for ordinary paths, `None` where
    /// they are too many to look at.
    ///
    /// They are all combinations of: decoding twice, decoding reserved characters, `%2F` as `/`, `%5C` as `/`, ending
    /// at an encoded `?` or `#`, cutting `;parameters`, taking what follows a leading `//` for a host, merging slashes.
    pub(crate) fn readings(&self) -> Option<Vec<Self>> {
        if !self.0.contains(['%', ';']) && !self.0.contains("//") {
            return Some(Vec::new());
        }
        let mut readings = BTreeSet::from([self.clone()]);
        for habit in HABITS {
            let read: Vec<Self> = readings.iter().map(|reading| Self(habit(&reading.0).into())).collect();
            readings.extend(read);
            if readings.len() > MAX_READINGS {
                return None;
            }
        }
        readings.remove(self);
        Some(readings.into_iter().collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a route begins: a canonical path without final slash that everybody reads in the same way. The root is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix(Arc<str>);

/// A mapping's path that cannot be a [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPrefix {
    /// It does not begin with `/`, is too long, or has dots, control characters or wrong escapes in it.
    #[error("it is not a plain path that begins with /")]
    NotAPath,
    /// Servers would read it in different ways.
    #[error(
        "it has //, ;, a backslash, ? or #, or a reserved character in encoded form in it, which servers read in different ways"
    )]
    Ambiguous,
}

impl Prefix {
    /// Reads a mapping's path. The empty text means `/`; a final slash says nothing, since whole segments are matched.
    ///
    /// # Errors
    /// [`InvalidPrefix`] for a path that servers could read in several ways.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPrefix> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        if trimmed.is_empty() {
            return Ok(Self("".into()));
        }
        let path = Path::parse(trimmed).map_err(|_| InvalidPrefix::NotAPath)?;
        if path.0.ends_with('/') || path.readings().is_none_or(|readings| !readings.is_empty()) {
            return Err(InvalidPrefix::Ambiguous);
        }
        Ok(Self(path.0))
    }

    /// Whether it matches every path.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its number of segments; the longest match is the deepest.
    pub(crate) fn depth(&self) -> usize {
        self.0.bytes().filter(|&byte| byte == b'/').count()
    }

    /// Without final slash: empty for the root.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

/// One byte of canonical text, or one escape.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Plain(u8),
    Escape(u8),
}

impl Unit {
    /// Whether it is `byte`, encoded or not.
    fn is(self, byte: u8) -> bool {
        self == Self::Plain(byte) || self == Self::Escape(byte)
    }

    fn write(self, text: &mut String) {
        match self {
            Self::Plain(byte) => text.push(char::from(byte)),
            Self::Escape(byte) => {
                text.push('%');
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The units of a text; a `%` that begins no escape is itself encoded.
fn units(text: &str) -> impl Iterator<Item = Unit> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        if first != b'%' {
            rest = after;
            return Some(if may_stand(first) { Unit::Plain(first) } else { Unit::Escape(first) });
        }
        let Some(byte) = escape(rest) else {
            rest = after;
            return Some(Unit::Escape(b'%'));
        };
        rest = &rest[3..];
        Some(if is_unreserved(byte) { Unit::Plain(byte) } else { Unit::Escape(byte) })
    })
}

/// The byte that `%XX` at the beginning of `text` stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// RFC 3986 `unreserved`.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 `sub-delims`, `:` and `@`: what may stand in a segment beside the unreserved.
fn is_reserved_in_segment(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

fn may_stand(byte: u8) -> bool {
    is_unreserved(byte) || is_reserved_in_segment(byte) || byte == b'/'
}

fn canonical_text(raw: &str) -> Result<Cow<'_, str>, BadRequest> {
    if raw.bytes().all(may_stand) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut text = String::with_capacity(raw.len());
    for (at, byte) in raw.bytes().enumerate() {
        if byte == b'%' && escape(&raw.as_bytes()[at..]).is_none() {
            return Err(BadRequest::PathEscape);
        }
    }
    for unit in units(raw) {
        if let Unit::Escape(0..0x20 | 0x7f) = unit {
            return Err(BadRequest::PathControl);
        }
        unit.write(&mut text);
    }
    Ok(Cow::Owned(text))
}

/// Whether the decoded bytes hold a UTF-8 sequence longer than its character needs (`%C0%AF` for `/`).
fn has_overlong(text: &str) -> bool {
    if !text.contains('%') {
        return false;
    }
    let mut previous = 0;
    units(text).any(|unit| {
        let byte = match unit {
            Unit::Plain(byte) | Unit::Escape(byte) => byte,
        };
        let overlong = matches!((previous, byte), (0xc0 | 0xc1, 0x80..0xc0) | (0xe0, 0x80..0xa0) | (0xf0, 0x80..0x90));
        previous = byte;
        overlong
    })
}

/// Whether some reading has a `.` or `..` segment: between any two bytes that anybody could take for the end of one.
fn has_dots(text: &str) -> bool {
    if !text.contains("/.") && !text.contains('%') {
        return false;
    }
    let twice = decoded_twice(text);
    let mut dots = Some(0);
    let ends = units(&twice).chain([Unit::Plain(b'/')]);
    for unit in ends {
        if unit.is(b'/') || unit.is(b'\\') {
            if matches!(dots, Some(1 | 2)) {
                return true;
            }
            dots = Some(0);
        } else if unit.is(b';') || unit.is(b'?') || unit.is(b'#') {
            if matches!(dots, Some(1 | 2)) {
                return true;
            }
            dots = None;
        } else {
            dots = if unit.is(b'.') { dots.map(|count| count + 1) } else { None };
        }
    }
    false
}

/// One way in which a server departs from taking a path as it stands; from canonical text to canonical text.
type Habit = fn(&str) -> String;

/// In the order in which servers apply them: first decoding, then structure.
const HABITS: [Habit; 8] = [
    decoded_twice,
    |text| {
        rewritten(text, |unit| {
            if let Unit::Escape(byte) = unit
                && is_reserved_in_segment(byte)
            {
                Unit::Plain(byte)
            } else {
                unit
            }
        })
    },
    |text| rewritten(text, |unit| if unit == Unit::Escape(b'/') { Unit::Plain(b'/') } else { unit }),
    |text| rewritten(text, |unit| if unit == Unit::Escape(b'\\') { Unit::Plain(b'/') } else { unit }),
    cut_at_query,
    without_parameters,
    without_authority,
    merged,
];

fn decoded_twice(text: &str) -> String {
    canonical_lossy(&text.replace("%25", "%"))
}

/// The canonical form of a reading, which may have controls and lone `%` in it.
fn canonical_lossy(text: &str) -> String {
    rewritten(text, |unit| unit)
}

fn rewritten(text: &str, change: impl Fn(Unit) -> Unit) -> String {
    let mut result = String::with_capacity(text.len());
    units(text).for_each(|unit| change(unit).write(&mut result));
    result
}

fn cut_at_query(text: &str) -> String {
    let end = text.find("%3F").into_iter().chain(text.find("%23")).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

fn without_parameters(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut named = true;
    for unit in units(text) {
        named = unit == Unit::Plain(b'/') || named && !unit.is(b';');
        if named {
            unit.write(&mut result);
        }
    }
    result
}

fn without_authority(text: &str) -> String {
    match text.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]).to_owned(),
        None => text.to_owned(),
    }
}

fn merged(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for char in text.chars() {
        if char != '/' || !result.ends_with('/') {
            result.push(char);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(raw: &str) -> Path {
        Path::parse(raw).expect(raw)
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).expect(text)
    }

    /// The deepest of `prefixes`, or nothing where readings disagree: what the routing table does.
    fn route<'a>(prefixes: &'a [Prefix], path: &Path) -> Result<Option<&'a Prefix>, ()> {
        let deepest =
            |path: &Path| prefixes.iter().filter(|prefix| path.starts_with(prefix)).max_by_key(|prefix| prefix.depth());
        let chosen = deepest(path);
        let readings = path.readings().ok_or(())?;
        if readings.iter().all(|reading| deepest(reading) == chosen) { Ok(chosen) } else { Err(()) }
    }

    #[test]
    fn canonical_form() {
        for (raw, canonical) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%41%7e%2D%5f", "/A~-_"),
            ("/a%2fb", "/a%2Fb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a\\b", "/a%5Cb"),
            ("/a\"{|}^`<>[ ]", "/a%22%7B%7C%7D%5E%60%3C%3E%5B%20%5D"),
            ("/a;b=c,d!$&'()*+:@", "/a;b=c,d!$&'()*+:@"),
            ("/%40%2b%3b", "/%40%2B%3B"),
            ("//a//", "//a//"),
            ("/100%25", "/100%25"),
            ("/%E9t%E9", "/%E9t%E9"),
            ("/.well-known/a..b/...", "/.well-known/a..b/..."),
        ] {
            assert_eq!(path(raw).as_str(), canonical, "{raw}");
        }
    }

    #[test]
    fn what_servers_would_resolve_or_misread_is_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH));
        let longer_when_encoded = format!("/{}", "\"".repeat(MAX_PATH / 2));
        for (raw, why) in [
            ("", BadRequest::Target),
            ("a", BadRequest::Target),
            ("*", BadRequest::Target),
            (long.as_str(), BadRequest::Target),
            (longer_when_encoded.as_str(), BadRequest::Target),
            ("/%", BadRequest::PathEscape),
            ("/%4", BadRequest::PathEscape),
            ("/%4g", BadRequest::PathEscape),
            ("/a%%20", BadRequest::PathEscape),
            ("/%+1", BadRequest::PathEscape),
            ("/%u002e", BadRequest::PathEscape),
            ("/%00", BadRequest::PathControl),
            ("/a%0a", BadRequest::PathControl),
            ("/a%0D%0AX", BadRequest::PathControl),
            ("/a\tb", BadRequest::PathControl),
            ("/%7f", BadRequest::PathControl),
            ("/%c0%af", BadRequest::PathOverlong),
            ("/%c0%ae%c0%ae", BadRequest::PathOverlong),
            ("/%e0%80%af", BadRequest::PathOverlong),
            ("/%f0%80%80%af", BadRequest::PathOverlong),
            ("/.", BadRequest::PathDots),
            ("/./a", BadRequest::PathDots),
            ("/a/..", BadRequest::PathDots),
            ("/public/../admin", BadRequest::PathDots),
            ("/public/%2e%2e/admin", BadRequest::PathDots),
            ("/public/.%2E/admin", BadRequest::PathDots),
            ("/public%2f..%2fadmin", BadRequest::PathDots),
            ("/public%5c..%5cadmin", BadRequest::PathDots),
            ("/public\\..\\admin", BadRequest::PathDots),
            ("/public/..;/admin", BadRequest::PathDots),
            ("/public/..%3Bx/admin", BadRequest::PathDots),
            ("/public/..%3fx", BadRequest::PathDots),
            ("/public/..%23", BadRequest::PathDots),
            ("/public/%252e%252e/admin", BadRequest::PathDots),
            ("/public%252f..%252fadmin", BadRequest::PathDots),
            ("/public/.%252e;x%255c", BadRequest::PathDots),
        ] {
            assert_eq!(Path::parse(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        for (at, raw, rest) in [
            ("/api", "/api", Some("")),
            ("/api", "/api/", Some("/")),
            ("/api/", "/api", Some("")),
            ("/api", "/api/v1", Some("/v1")),
            ("/api", "/api//v1", Some("//v1")),
            ("/api", "/apix", None),
            ("/api", "/ap", None),
            ("/api", "/api%2Fv1", None),
            ("/api", "/API", None),
            ("/api/v1", "/api/v1/x", Some("/x")),
            ("/caf\u{e9}", "/caf%c3%a9/x", Some("/x")),
            ("/", "/x", Some("/x")),
            ("", "/", Some("/")),
        ] {
            assert_eq!(path(raw).after(&prefix(at)), rest, "{raw} after {at}");
        }
        assert!(Path::asterisk().starts_with(&prefix("/")));
        assert!(!Path::asterisk().starts_with(&prefix("/a")));
        assert_eq!((prefix("/").depth(), prefix("/a").depth(), prefix("/a/b/").depth()), (0, 1, 2));
        assert_eq!((prefix("/").to_string(), prefix("/a/").to_string()), ("/".to_owned(), "/a".to_owned()));
    }

    #[test]
    fn a_prefix_has_one_reading() {
        for bad in ["/a//b", "//", "/a//", "/a;b", "/a%2Fb", "/a\\b", "/a?b", "/a#b", "/%40", "/%2541"] {
            assert_eq!(Prefix::parse(bad), Err(InvalidPrefix::Ambiguous), "{bad}");
        }
        for bad in ["api", "/a/../b", "/%", "/a\nb", "*"] {
            assert_eq!(Prefix::parse(bad), Err(InvalidPrefix::NotAPath), "{bad}");
        }
        for good in ["", "/", "/a", "/a/", "/@me", "/a b", "/v1.0", "/.well-known"] {
            assert!(Prefix::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn readings_are_what_others_could_see() {
        let readings = |raw: &str| {
            let readings = path(raw).readings().expect("few");
            readings.iter().map(|reading| reading.0.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(readings("/a/b-c_d.e/~"), Vec::<String>::new());
        assert_eq!(readings("/caf%C3%A9/%20"), Vec::<String>::new());
        assert_eq!(readings("/a%2Fb"), ["/a/b"]);
        assert_eq!(readings("/a%5Cb"), ["/a/b"]);
        assert_eq!(readings("/a//b"), ["/a/b"]);
        assert_eq!(readings("/a;x/b"), ["/a/b"]);
        assert_eq!(readings("/%40me"), ["/@me"]);
        assert_eq!(readings("/a%3Fb/c"), ["/a"]);
        assert_eq!(readings("//h/a"), ["/a", "/h/a"]);
        assert_eq!(readings("/a%252Fb"), ["/a%2Fb", "/a/b"]);
        assert_eq!(readings("/a%2541"), ["/aA"]);
        assert_eq!(path("//h/%40;a%3B/%2F%5C%252F%253B%3F").readings(), None);
    }

    #[test]
    fn a_path_is_routed_only_if_all_agree() {
        let prefixes = [prefix("/"), prefix("/admin"), prefix("/@me")];
        for raw in [
            "//admin",
            "/%2Fadmin",
            "/x//admin/..x",
            "/admin",
            "/admin/a%2Fb",
            "/a%2Fadmin",
            "/admin;x/y%2F",
            "/a;admin",
        ] {
            let known = matches!(raw, "//admin" | "/%2Fadmin" | "/admin;x/y%2F");
            assert_eq!(route(&prefixes, &path(raw)).is_err(), known, "{raw}");
        }
        for raw in
            ["//x/admin", "/admin%2Fx", "/admin\\x", "/admin;x", "/admin%3Bx", "/admin%3Fx", "/admin%252Fx", "/%40me"]
        {
            assert_eq!(route(&prefixes, &path(raw)), Err(()), "{raw}");
        }
    }

    /// How some upstream turns a request target into segments.
    struct Upstream {
        name: &'static str,
        segments: fn(&str) -> Vec<String>,
    }

    fn split(text: &str) -> Vec<String> {
        text.split('/').skip(1).map(str::to_owned).collect()
    }

    fn percent_decoded(text: &str, keep: &[u8]) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            match escape(rest) {
                Some(byte) if !keep.contains(&byte) => {
                    bytes.push(byte);
                    rest = &rest[3..];
                }
                _ => {
                    bytes.push(first);
                    rest = after;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// RFC 3986 §5.2.4 on segments, with empty ones dropped where slashes are merged.
    fn resolved(segments: Vec<String>, merge: bool) -> Vec<String> {
        let mut result = Vec::new();
        for segment in segments {
            match segment.as_str() {
                "." => {}
                ".." => {
                    result.pop();
                }
                "" if merge => {}
                _ => result.push(segment),
            }
        }
        result
    }

    const UPSTREAMS: [Upstream; 8] = [
        Upstream { name: "as it stands", segments: split },
        Upstream { name: "nginx", segments: |text| resolved(split(&percent_decoded(text, &[])), true) },
        Upstream {
            name: "Node, express",
            segments: |text| split(text).iter().map(|segment| percent_decoded(segment, &[])).collect(),
        },
        Upstream {
            name: "Node, new URL",
            segments: |text| {
                let text = text.replace('\\', "/");
                resolved(split(&percent_decoded(&without_authority(&text), &[])), false)
            },
        },
        Upstream { name: "Go", segments: |text| resolved(split(&percent_decoded(text, &[])), false) },
        Upstream {
            name: ".NET",
            segments: |text| {
                let decoded = percent_decoded(text, b"/").replace('\\', "/");
                resolved(split(&decoded), false)
            },
        },
        Upstream {
            name: "Java",
            segments: |text| {
                let names = text.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
                let cut = names.collect::<Vec<_>>().join("/");
                resolved(split(&percent_decoded(&cut, &[]).replace('\\', "/")), true)
            },
        },
        Upstream {
            name: "a proxy that decodes, before nginx",
            segments: |text| {
                let once = percent_decoded(text, &[]);
                let once = once.split(['?', '#']).next().unwrap_or_default();
                resolved(split(&percent_decoded(once, &[])), true)
            },
        },
    ];

    fn seen(prefixes: &[Prefix], segments: &[String]) -> Option<usize> {
        let spelled = |text: &str| segments.starts_with(&split(text));
        let is_prefix = |prefix: &Prefix| spelled(&prefix.0) || spelled(&percent_decoded(&prefix.0, &[]));
        (0..prefixes.len()).filter(|&at| is_prefix(&prefixes[at])).max_by_key(|&at| prefixes[at].depth())
    }

    /// Paths made of the pieces that servers stumble over.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "//", "a", "b", "admin", "@", "%40", ".", "..", "%2e", "%252e", "%2F", "%2f", "%5c", "\\",
            "%252F", "%255C", ";", "%3B", ";x=1", "%253B", "%3F", "%23", "%253f", "%25", "%C3%A9", "\u{e9}", "%41",
            "%61dmin", "%2561", "%c0%af", "%20",
        ]);
        prop::collection::vec(piece, 0..9).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn canonical_form_is_its_own(raw in prop_oneof![tricky(), "/\\PC{0,30}", "/[ -~]{0,30}"]) {
            if let Ok(path) = Path::parse(&raw) {
                prop_assert!(path.0.bytes().all(|byte| may_stand(byte) || byte == b'%'));
                prop_assert_eq!(percent_decoded(&path.0, &[]), percent_decoded(&raw, &[]));
                prop_assert_eq!(Path::parse(&path.0), Ok(path));
            }
        }

        #[test]
        fn matching_is_splitting(raw in "/[ab/]{0,8}", at in "/[ab]{1,2}(/[ab]{1,2}){0,2}/?") {
            let (path, prefix) = (path(&raw), prefix(&at));
            let wanted: Vec<_> = at.trim_end_matches('/').split('/').collect();
            let given: Vec<_> = raw.split('/').collect();
            prop_assert_eq!(path.starts_with(&prefix), given.starts_with(&wanted));
        }

        #[test]
        fn a_dot_segment_of_any_reading_is_refused(raw in tricky()) {
            if let Ok(path) = Path::parse(&raw) {
                for reading in path.readings().unwrap_or_default().iter().chain([&path]) {
                    prop_assert!(!reading.0.split('/').any(|segment| matches!(segment, "." | "..")), "{}", reading);
                }
            }
        }

        #[test]
        fn upstreams_see_the_route_we_chose(
            raw in tricky(),
            at in prop::collection::btree_set("(/(a|b|admin|@|\u{e9}|@a)){0,2}", 1..4),
        ) {
            let prefixes: Vec<_> = at.iter().map(|text| prefix(text)).collect();
            let Ok(path) = Path::parse(&raw) else { return Ok(()) };
            let Ok(chosen) = route(&prefixes, &path) else { return Ok(()) };
            let chosen = chosen.and_then(|chosen| prefixes.iter().position(|prefix| prefix == chosen));
            for upstream in &UPSTREAMS {
                let segments = (upstream.segments)(&path.0);
                prop_assert_eq!(seen(&prefixes, &segments), chosen, "{} reads {} as {:?}", upstream.name, path, segments);
            }
        }
    }
}
