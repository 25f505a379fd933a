//! The pages that Postern itself shows: self-contained, small, readable without a script.

/// What an error page says. The texts are escaped here; what they say is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct ErrorPage<'a> {
    /// The HTTP status.
    pub code: u16,
    /// A few words.
    pub title: &'a str,
    /// A sentence or two: what is wrong, and what to do.
    pub message: &'a str,
    /// Whether Postern itself is well.
    pub proxy_ok: bool,
    /// Whether the destination was reached.
    pub destination_ok: bool,
    /// What to name when asking for help.
    pub request_id: &'a str,
}

/// The media type of [`error_page`].
pub const HTML: &str = "text/html; charset=utf-8";

/// The media type of [`error_json`].
pub const JSON: &str = "application/json";

/// To be sent with each page and each JSON error: nothing is loaded, framed, kept or guessed at.
pub const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
];

/// The page for people.
#[must_use]
pub fn error_page(page: &ErrorPage<'_>) -> String {
    let (title, message, request_id) = (escape(page.title), escape(page.message), escape(page.request_id));
    let code = page.code;
    let tiles = [
        tile("You", State::Good, "Connected"),
        match page.proxy_ok {
            true => tile("Proxy", State::Good, "Working"),
            false => tile("Proxy", State::Bad, "Not ready"),
        },
        match (page.destination_ok, page.proxy_ok && code >= 500) {
            (true, _) => tile("Destination", State::Good, "Reached"),
            (false, true) => tile("Destination", State::Bad, "Not answering"),
            (false, false) => tile("Destination", State::Unknown, "Not asked"),
        },
    ]
    .concat();
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{code} {title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<p class="code">{code}</p>
<h1>{title}</h1>
<p class="message">{message}</p>
<ol aria-label="How far the request came">{tiles}</ol>
<p><a href="">Try again</a></p>
<footer>Request <code>{request_id}</code></footer>
</main>
</body>
</html>
"#
    )
}

/// The same for programs: `{"error":{"code":502,"title":"…","message":"…","request_id":"…"}}`.
#[must_use]
pub fn error_json(page: &ErrorPage<'_>) -> String {
    let ErrorPage { code, title, message, request_id, .. } = page;
    serde_json::json!({"error": {"code": code, "title": title, "message": message, "request_id": request_id}})
        .to_string()
}

/// How one of the three stands. Never told by colour alone: sign and words say it too.
#[derive(Clone, Copy)]
enum State {
    Good,
    Bad,
    Unknown,
}

fn tile(name: &str, state: State, words: &str) -> String {
    let (class, sign) = match state {
        State::Good => ("good", "&#10003;"),
        State::Bad => ("bad", "&#10005;"),
        State::Unknown => ("unknown", "&#8211;"),
    };
    format!(
        r#"<li class="{class}"><span class="sign" aria-hidden="true">{sign}</span><b>{name}</b><span>{words}</span></li>"#
    )
}

/// Safe as text and in a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

const STYLE: &str = include_str!("error.css");

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> ErrorPage<'static> {
        ErrorPage {
            code: 502,
            title: "The application does not answer",
            message: "We found it, but nothing listens there. Please try again in a moment.",
            proxy_ok: true,
            destination_ok: false,
            request_id: "0198f2c4-9d1e-7a44-b8aa-4f7f3f0f2a11",
        }
    }

    #[test]
    fn a_page_says_what_it_was_given() {
        let html = error_page(&page());
        for text in [
            "<title>502 The application does not answer</title>",
            "<h1>The application does not answer</h1>",
            "nothing listens there",
            "<code>0198f2c4-9d1e-7a44-b8aa-4f7f3f0f2a11</code>",
            "<a href=\"\">Try again</a>",
            "Not answering",
        ] {
            assert!(html.contains(text), "{text}");
        }
    }

    #[test]
    fn the_tiles_say_where_it_went_wrong() {
        let states = |code, proxy_ok, destination_ok| {
            let html = error_page(&ErrorPage { code, proxy_ok, destination_ok, ..page() });
            html.split("<li class=\"")
                .skip(1)
                .filter_map(|li| Some(li.split_once('"')?.0.to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(states(502, true, false), ["good", "good", "bad"]);
        assert_eq!(states(500, false, false), ["good", "bad", "unknown"]);
        assert_eq!(states(404, true, false), ["good", "good", "unknown"]);
        assert_eq!(states(504, true, true), ["good", "good", "good"]);
    }

    #[test]
    fn every_text_is_escaped() {
        const EVIL: &str = "</title></style><script>alert('\"&')</script>";
        let safe = "&lt;/title&gt;&lt;/style&gt;&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";
        for (field, times, evil) in [
            ("title", 2, ErrorPage { title: EVIL, ..page() }),
            ("message", 1, ErrorPage { message: EVIL, ..page() }),
            ("request_id", 1, ErrorPage { request_id: EVIL, ..page() }),
        ] {
            let html = error_page(&evil);
            assert_eq!(html.matches(safe).count(), times, "{field}");
            assert!(!html.contains("<script"), "{field}");
        }
    }

    #[test]
    fn a_page_is_small_and_loads_nothing() {
        let html = error_page(&page());
        assert!(html.len() < 8 * 1024, "{} bytes", html.len());
        for foreign in ["http:", "https:", "//", "url(", "@import", "src=", "<script", "<link", " on"] {
            let found = html.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
            let (style, rest) = found.expect("one style");
            assert!(!style.contains(foreign), "{foreign} in the style");
            assert!(foreign == " on" || !rest.contains(foreign), "{foreign}");
        }
        assert!(html.contains("lang=\"en\"") && html.contains("prefers-color-scheme"));
    }

    #[test]
    fn json_is_json_whatever_the_texts() {
        let evil = "quote \" backslash \\ newline \n </script>";
        let json = error_json(&ErrorPage { message: evil, ..page() });
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["error"]["code"], 502);
        assert_eq!(value["error"]["message"], evil);
        assert_eq!(value["error"]["request_id"], page().request_id);
    }

    #[test]
    fn the_headers_forbid_everything_but_the_style() {
        let of = |name: &str| HEADERS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        assert!(of("content-security-policy").is_some_and(|csp| csp.starts_with("default-src 'none'; ")));
        assert!(of("content-security-policy").is_some_and(|csp| csp.contains("frame-ancestors 'none'")));
        assert_eq!((of("cache-control"), of("x-content-type-options")), (Some("no-store"), Some("nosniff")));
        for (name, value) in HEADERS {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert!(value.bytes().all(|b| (0x20..0x7f).contains(&b)), "{value}");
        }
    }
}
