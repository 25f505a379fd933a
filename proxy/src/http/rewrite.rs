//! From a public path to the upstream's, and from the upstream's redirects back.

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use postern_model::{PathRewrite, Scheme, Target};

use crate::error::{BadRequest, Result};
use crate::http::canonical::Request;
use crate::http::path::{Path, Prefix};

/// Where the client believes itself to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    scheme: Scheme,
    authority: HeaderValue,
}

impl Public {
    /// `scheme` is what the client speaks.
    pub(crate) fn of(request: &Request, scheme: Scheme) -> Self {
        Self { scheme, authority: request.authority.clone() }
    }
}

/// How a route's paths are those of its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// What the route matches.
    pub(crate) prefix: Prefix,
    /// Where it leads.
    pub(crate) target: Target,
    /// What becomes of the prefix.
    pub(crate) path: PathRewrite,
}

impl Rewrite {
    /// The target path, then what the request's path has after the stripped prefix, one slash between them; the target's
    /// query, then the request's, byte for byte.
    ///
    /// # Errors
    /// [`BadRequest::Target`] where the whole is too long to be a target.
    pub(crate) fn forth(&self, path: &Path, query: Option<&str>) -> Result<PathAndQuery> {
        let rest = match self.path {
            PathRewrite::Preserve => path.as_str(),
            PathRewrite::Strip => path.after(&self.prefix).unwrap_or(path.as_str()),
        };
        let mut text = match rest {
            "*" => "*".to_owned(),
            rest => joined(&self.target.path, rest),
        };
        let own = Some(&*self.target.query).filter(|query| !query.is_empty());
        match (own, query) {
            (Some(own), Some("") | None) => text.extend(["?", own]),
            (Some(own), Some(sent)) => text.extend(["?", own, "&", sent]),
            (None, Some(sent)) => text.extend(["?", sent]),
            (None, None) => {}
        }
        PathAndQuery::try_from(text).map_err(|_| BadRequest::Target.into())
    }

    /// A `Location` of the upstream as the client must see it; `None` where it stays as it is: at another server, or
    /// relative to a path that the client shares.
    pub(crate) fn back(&self, location: &HeaderValue, public: &Public) -> Option<HeaderValue> {
        let location = location.to_str().ok()?;
        let rewritten = match Reference::parse(location)? {
            Reference::Absolute { scheme, authority, rest } => {
                let own = Authority::new(&self.target.authority(), self.target.scheme);
                if Authority::new(authority, scheme.unwrap_or(self.target.scheme)) != own {
                    return None;
                }
                format!("{}://{}{}", public.scheme.as_str(), public.authority.to_str().ok()?, self.public_path(rest))
            }
            Reference::Rooted(rest) => {
                if begins_with(rest, self.prefix.as_str()).is_some() && self.target_path().is_empty() {
                    return None;
                }
                self.public_path(rest)
            }
        };
        HeaderValue::try_from(rewritten).ok().filter(|rewritten| rewritten != location)
    }

    /// Takes the target path off an upstream's path and puts the stripped prefix before it. What lies outside the target
    /// path has no public path; it keeps its own, behind the prefix.
    fn public_path(&self, upstream: &str) -> String {
        let inside = begins_with(upstream, self.target_path()).unwrap_or(upstream);
        match self.path {
            PathRewrite::Strip if !self.prefix.is_root() => joined(self.prefix.as_str(), inside),
            PathRewrite::Strip | PathRewrite::Preserve => inside.to_owned(),
        }
    }

    /// Without final slash: empty for the root.
    fn target_path(&self) -> &str {
        self.target.path.strip_suffix('/').unwrap_or(&self.target.path)
    }
}

/// With exactly one of the slashes that meet.
fn joined(before: &str, after: &str) -> String {
    [before.strip_suffix('/').unwrap_or(before), "/", after.strip_prefix('/').unwrap_or(after)].concat()
}

/// What follows `beginning`, if it ends where a segment does.
fn begins_with<'a>(path: &'a str, beginning: &str) -> Option<&'a str> {
    path.strip_prefix(beginning).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}

/// A URI reference (RFC 3986 §4.1) that we may have to change.
enum Reference<'a> {
    /// `http://authority…`, or `//authority…` without scheme.
    Absolute { scheme: Option<Scheme>, authority: &'a str, rest: &'a str },
    /// `/path…`.
    Rooted(&'a str),
}

impl<'a> Reference<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, after) = match text.split_once(':') {
            Some((scheme, after)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), after),
            Some((scheme, after)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), after),
            Some(_) | None => (None, text),
        };
        if let Some(after) = after.strip_prefix("//") {
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            let (authority, rest) = after.split_at(end);
            return Some(Self::Absolute { scheme, authority, rest });
        }
        // Browsers read `/\host` as `//host`: it is another server's, whatever it was meant to be.
        let rooted = scheme.is_none() && text.starts_with('/') && !text.starts_with("/\\");
        rooted.then_some(Self::Rooted(text))
    }
}

/// Host and port as they compare: in lower case, the scheme's own port written out.
#[derive(PartialEq, Eq)]
struct Authority(String);

impl Authority {
    fn new(text: &str, scheme: Scheme) -> Self {
        let mut text = text.to_ascii_lowercase();
        let default = format!(":{}", scheme.default_port());
        if text.ends_with(&default) {
            text.truncate(text.len() - default.len());
        }
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewrite(prefix: &str, target: &str, path: PathRewrite) -> Rewrite {
        Rewrite { prefix: Prefix::parse(prefix).expect(prefix), target: Target::parse(target).expect(target), path }
    }

    fn forth(path: PathRewrite, prefix: &str, target: &str, raw: &str, query: Option<&str>) -> String {
        let path_sent = Path::parse(raw).expect(raw);
        rewrite(prefix, target, path).forth(&path_sent, query).expect(raw).to_string()
    }

    #[test]
    fn forwarded_path() {
        use PathRewrite::{Preserve, Strip};
        for (mode, prefix, target, raw, sent) in [
            (Strip, "", "http://b:8080/app", "/somepath", "/app/somepath"),
            (Strip, "/app", "https://b:443/app", "/app", "/app/"),
            (Strip, "/app", "https://b:443/app", "/app/article/123", "/app/article/123"),
            (Strip, "/x", "https://b:443", "/x", "/"),
            (Strip, "/x", "https://b:443", "/x/article/123", "/article/123"),
            (Strip, "/", "https://b:443/", "/x", "/x"),
            (Preserve, "/api", "http://b:8080", "/api/users/123", "/api/users/123"),
            (Preserve, "/", "http://b:8080", "/anything", "/anything"),
            (Strip, "/api", "http://b", "/api/a%2Fb", "/a%2Fb"),
            (Strip, "/api", "http://b/base/", "/api//x/", "/base//x/"),
            (Strip, "/a b", "http://b", "/a%20b/c", "/c"),
            (Preserve, "/api", "http://b/base", "/api", "/base/api"),
        ] {
            assert_eq!(forth(mode, prefix, target, raw, None), sent, "{prefix} {target} {raw}");
        }
        let options = rewrite("/", "http://b/app", Strip).forth(&Path::asterisk(), None);
        assert_eq!(options.expect("asterisk").as_str(), "*");
    }

    #[test]
    fn queries_stay_byte_for_byte() {
        for (target, query, sent) in [
            ("http://b", None, "/"),
            ("http://b", Some(""), "/?"),
            ("http://b", Some("b=%41&a=;&session_token=x&=%zz"), "/?b=%41&a=;&session_token=x&=%zz"),
            ("http://b/?key=1", None, "/?key=1"),
            ("http://b/?key=1", Some(""), "/?key=1"),
            ("http://b/?key=1", Some("z=2&key=3"), "/?key=1&z=2&key=3"),
        ] {
            assert_eq!(forth(PathRewrite::Strip, "/", target, "/", query), sent, "{target} {query:?}");
        }
    }

    fn back(scheme: Scheme, prefix: &str, target: &str, location: &str) -> Option<String> {
        let public = Public { scheme, authority: HeaderValue::from_static("public") };
        let location = HeaderValue::from_str(location).expect(location);
        let back = rewrite(prefix, target, PathRewrite::Strip).back(&location, &public);
        back.map(|back| back.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn absolute_locations_of_the_upstream_become_public() {
        for (prefix, location, sent) in [
            ("", "http://backend:8080/login", Some("https://public/login")),
            ("", "https://other/path", None),
            ("", "/dashboard", None),
            ("/api", "http://backend:8080/users", Some("https://public/api/users")),
            ("/api/", "http://backend:8080/users", Some("https://public/api/users")),
            ("/app", "http://backend:8080/", Some("https://public/app/")),
            ("/app/", "http://backend:8080/", Some("https://public/app/")),
            ("/", "http://backend:8080/login", Some("https://public/login")),
            ("", "http://backend:8080/path/", Some("https://public/path/")),
            ("", "http://backend:8080/s?q=test&page=1#results", Some("https://public/s?q=test&page=1#results")),
            (
                "/v1",
                "http://backend:8080/redirect?url=http%3A%2F%2Fexample.com",
                Some("https://public/v1/redirect?url=http%3A%2F%2Fexample.com"),
            ),
            ("", "http://backend:9090/other", None),
            ("", "http://backend/path", None),
            ("", "HTTP://Backend:8080/x", Some("https://public/x")),
            ("", "//backend:8080/x", Some("https://public/x")),
            ("", "http://backend:8080", Some("https://public")),
            ("", "http://backend:8080?x", Some("https://public?x")),
            ("/api", "http://backend:8080", Some("https://public/api/")),
            ("", "http://user@backend:8080/x", None),
            ("", "http://backend:8080@evil/x", None),
            ("/api", "//evil/x", None),
            ("/api", "/\\evil/x", None),
            ("/api", "mailto:a@b", None),
            ("/api", "http:", None),
            ("/api", "http:/x", None),
            ("/api", "", None),
            ("/api", "::not a uri::", None),
        ] {
            assert_eq!(
                back(Scheme::Https, prefix, "http://backend:8080", location).as_deref(),
                sent,
                "{prefix} {location}"
            );
        }
        assert_eq!(
            back(Scheme::Http, "", "http://backend:8080", "http://backend:8080/path").as_deref(),
            Some("http://public/path")
        );
        let unreadable = HeaderValue::from_bytes(b"http://backend:8080/\xff").expect("obs-text");
        let public = Public { scheme: Scheme::Https, authority: HeaderValue::from_static("public") };
        assert_eq!(rewrite("", "http://backend:8080", PathRewrite::Strip).back(&unreadable, &public), None);
    }

    #[test]
    fn default_ports_are_the_same_authority() {
        for (target, location, same) in [
            ("https://h:443", "https://h/x", true),
            ("https://h", "https://h:443/x", true),
            ("http://h:80", "http://h/x", true),
            ("http://h", "http://h:80/x", true),
            ("https://h:8443", "https://h/x", false),
            ("https://h", "https://h:8443/x", false),
            ("https://[fd00::1]", "https://[FD00::1]:443/x", true),
        ] {
            assert_eq!(back(Scheme::Https, "", target, location).is_some(), same, "{target} {location}");
        }
    }

    #[test]
    fn rooted_locations_get_the_stripped_prefix_back() {
        for (prefix, target, location, sent) in [
            ("/api", "http://b", "/login?next=/x#y", Some("/api/login?next=/x#y")),
            ("/api", "http://b", "/", Some("/api/")),
            ("/api", "http://b", "/apix", Some("/api/apix")),
            // The upstream knows its public path already.
            ("/api", "http://b", "/api", None),
            ("/api", "http://b", "/api/login", None),
            ("/api", "http://b", "login", None),
            ("/api", "http://b", "../login", None),
            ("/api", "http://b", "?x=1", None),
            ("/", "http://b", "/login", None),
            ("/p", "http://b/base", "/base/login", Some("/p/login")),
            ("/p", "http://b/base/", "/base", Some("/p/")),
            ("/p", "http://b/base", "/basement", Some("/p/basement")),
            ("/app", "http://b/app", "/app/login", None),
            ("/", "http://b/base", "/base/login", Some("/login")),
        ] {
            assert_eq!(back(Scheme::Https, prefix, target, location).as_deref(), sent, "{prefix} {target} {location}");
        }
        let kept = rewrite("/api", "http://b", PathRewrite::Preserve);
        let public = Public { scheme: Scheme::Https, authority: HeaderValue::from_static("public") };
        assert_eq!(kept.back(&HeaderValue::from_static("/api/login"), &public), None);
        assert_eq!(kept.back(&HeaderValue::from_static("/login"), &public), None);
        assert_eq!(
            kept.back(&HeaderValue::from_static("http://b/api/x"), &public),
            Some(HeaderValue::from_static("https://public/api/x"))
        );
    }

    proptest! {
        /// A redirect of the upstream to the path it was asked for leads the client back to where it was.
        #[test]
        fn there_and_back(prefix in "(/[pq]){0,2}", base in "(/[bp]){0,2}/?", rest in "(/[a-c%]{0,2}){0,3}", strip in any::<bool>()) {
            let path = if strip { PathRewrite::Strip } else { PathRewrite::Preserve };
            let rewrite = rewrite(&prefix, &format!("http://up{base}"), path);
            let Ok(asked) = Path::parse(&format!("{prefix}/x{rest}")) else { return Ok(()) };
            let sent = rewrite.forth(&asked, None).expect("short").to_string();
            let public = Public { scheme: Scheme::Https, authority: HeaderValue::from_static("public") };
            let location = HeaderValue::from_str(&format!("http://up{sent}")).expect("ASCII");
            let expected = HeaderValue::from_str(&format!("https://public{asked}")).expect("ASCII");
            prop_assert_eq!(rewrite.back(&location, &public), Some(expected));
        }
    }
}
