//! Addresses as they may be shown and recorded: without what opens doors.

/// An address without `user:password@`, and with the values of its query
/// replaced by `***`: keys are given in either. Everything else stays, so two
/// places stay two.
///
/// ```
/// use spin_net::url::public;
///
/// assert_eq!(public("https://me:pw@host:8/v1?api-version=2&key=s3cret#x"), "https://host:8/v1?api-version=***&key=***");
/// assert_eq!(public("http://localhost:8000/v1"), "http://localhost:8000/v1");
/// assert_eq!(public("me:p@w@host/v1"), "host/v1");
/// ```
pub fn public(url: &str) -> String {
    let Parts { scheme, place, query, .. } = Parts::of(url);
    let hidden = |pair: &str| match pair.split_once('=') {
        Some((name, _)) => format!("{name}=***"),
        None => "***".to_owned(),
    };
    let query = match query {
        "" => String::new(),
        query => format!("?{}", query.split('&').map(hidden).collect::<Vec<_>>().join("&")),
    };
    format!("{scheme}{place}{query}")
}

/// What [`public`] leaves out of an address: passwords, user names and values
/// of the query, as they are written there.
pub fn secrets(url: &str) -> Vec<String> {
    let Parts { user, query, .. } = Parts::of(url);
    let mut out = Vec::new();
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        // A token is often given as the name alone.
        out.extend([user, if password.is_empty() { name } else { password }].map(str::to_owned));
    }
    out.extend(query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value).to_owned()));
    out.retain(|secret| !secret.is_empty());
    out
}

/// Whether an address names a user or a password.
pub fn has_user(url: &str) -> bool {
    Parts::of(url).user.is_some()
}

/// An address taken apart; what follows `#` is dropped.
struct Parts<'a> {
    /// With `://`.
    scheme: &'a str,
    user: Option<&'a str>,
    place: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Self {
        let (scheme, rest) = url.split_at(url.find("://").map_or(0, |at| at + 3));
        let user = user(rest);
        let rest = user.map_or(rest, |user| &rest[user.len() + 1..]);
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        Parts { scheme, user, place, query }
    }
}

/// `user:password` of what follows `://`.
fn user(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((user, _)) = authority.rsplit_once('@') {
        return Some(user);
    }
    // A password may hold what nobody encoded; a port may not.
    let (_, port) = authority.rsplit_once(':')?;
    let is_port = port.bytes().all(|b| b.is_ascii_digit() || b == b']');
    rest.rsplit_once('@').filter(|_| !is_port).map(|(user, _)| user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_public() {
        for url in
            ["https://u:p4ss/w@rd@h/v1?k=v4lue&q=a%20b", "https://t0ken@h/v1", "u:p4ss@h", "http://u:p4#s?s@h/v1"]
        {
            let shown = public(url);
            let secrets = secrets(url);
            assert!(!secrets.is_empty());
            for secret in secrets {
                assert!(!shown.contains(&secret), "{shown} has {secret}");
            }
        }
        // No user, whatever the path has.
        for plain in ["https://h/v1/@org/x", "https://h:80/a@b", "http://[::1]:80/v1@x"] {
            assert_eq!((public(plain), secrets(plain)), (plain.to_owned(), Vec::new()));
        }
        assert_eq!(secrets("http://h/v1?"), Vec::<String>::new());
        assert_eq!(public("http://h/v1?"), "http://h/v1");
    }
}
