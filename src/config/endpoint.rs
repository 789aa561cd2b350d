//! Host and port, and the AWS region a host name tells.

use std::net::{IpAddr, Ipv6Addr};

/// The proxy or database to talk to: what is dialled, what TLS verifies and what tokens are signed for.
///
/// Host names are kept in lower case and without a trailing dot.
///
/// ```
/// use rds_proxy_pool::ProxyConfig;
///
/// let config = ProxyConfig::builder()
///     .endpoint("Orders.proxy-abc123.eu-west-1.rds.amazonaws.com.:5433")
///     .user("app")
///     .database("orders")
///     .build()?;
/// assert_eq!(config.endpoint().host(), "orders.proxy-abc123.eu-west-1.rds.amazonaws.com");
/// assert_eq!(config.endpoint().port(), Some(5433));
/// assert_eq!(config.endpoint().region(), Some("eu-west-1"));
/// # Ok::<(), rds_proxy_pool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: Option<u16>,
    region: Option<String>,
}

impl Endpoint {
    /// The host name or IP address; an IPv6 address is without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was given; else the engine's own applies (PostgreSQL: 5432).
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The AWS region in the host name; `None` for addresses, names that are not Amazon RDS's, and Global Database
    /// writer endpoints, which carry no region.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    pub(super) fn new(host: &str, port: Option<u16>) -> Result<Self, String> {
        let host = parse_host(host)?;
        let region = region_of(&host);
        Ok(Endpoint { host, port, region })
    }

    pub(super) fn with_port(self, port: Option<u16>) -> Self {
        Endpoint { port, ..self }
    }

    /// Reads `host`, `host:port`, `[v6]:port` or a bare IPv6 address; the error says what is wrong and shows the text
    /// only where it cannot hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains("://") {
            return Err("is a URL; give host or host:port here, and a URL in DATABASE_URL".to_owned());
        }
        if text.contains('@') {
            return Err("holds an `@`; give host or host:port alone".to_owned());
        }
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let unclosed = || format!("{} has a `[` without its `]`", shown(text));
            let (address, rest) = bracketed.split_once(']').ok_or_else(unclosed)?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(format!("{} is not an IPv6 address", shown(address)));
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if rest.is_empty() => None,
                None => return Err(format!("{} goes on after its `]`", shown(text))),
            };
            return Endpoint::new(address, port);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Endpoint::new(text, None);
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => Endpoint::new(host, Some(parse_port(port)?)),
            _ => Endpoint::new(text, None),
        }
    }
}

pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| format!("{} is not a port (1 to 65535)", shown(text)))
}

/// A value as it appears in messages: quoted, escaped, not longer than a line.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(80) {
        Some((at, _)) => format!("{:?}…", &value[..at]),
        None => format!("{value:?}"),
    }
}

/// A host name as the DNS takes it, or an IP address; in lower case.
fn parse_host(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let refuse = |why: &str| Err(format!("{} is not a host name: {why}", shown(text)));
    let host = text.strip_suffix('.').unwrap_or(text);
    if host.len() > 253 {
        return refuse("it is longer than 253 bytes");
    }
    for label in host.split('.') {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.bytes().all(legal) {
            return refuse("only letters, digits, `-`, `_` and `.` are allowed");
        }
        if label.is_empty() || label.len() > 63 {
            return refuse("each part must be 1 to 63 bytes long");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("no part may begin or end with `-`");
        }
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("it ends in a number and is not an IP address");
    }
    Ok(host.to_ascii_lowercase())
}

/// What RDS host names end in, besides the China partition's `amazonaws.com.cn`.
const SUFFIXES: [&[&str]; 7] = [
    &["amazonaws", "com"],
    &["amazonaws", "com", "cn"],
    &["amazonaws", "eu"],
    &["amazonaws", "au"],
    &["amazonaws", "uk"],
    &["c2s", "ic", "gov"],
    &["sc2s", "sgov", "gov"],
];

/// What the second label of a host name begins with when it is not an instance's. The longer of two comes first.
const KINDS: [&str; 5] = ["proxy-", "cluster-ro-", "cluster-custom-", "cluster-", "shardgrp-"];

/// The region in an RDS host name: `<name>.<kind><id>.<region>.rds.<suffix>`, or with `rds` before the region, as
/// China, GovCloud and the isolated partitions have it.
///
/// Sources: Amazon RDS User Guide; `RdsUtils` of the AWS Advanced JDBC Wrapper.
pub(super) fn region_of(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    let rest = SUFFIXES.iter().find_map(|suffix| labels.strip_suffix(*suffix))?;
    let (names, region) = match rest {
        [names @ .., region, "rds" | "rds-fips"] => (names, *region),
        [names @ .., "rds" | "rds-fips", region] => (names, *region),
        _ => return None,
    };
    let [before @ .., id] = names else { return None };
    let id = KINDS.iter().find_map(|kind| id.strip_prefix(kind)).unwrap_or(id);
    let named = !before.is_empty() && before.iter().all(|label| !label.is_empty());
    let identified = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (named && identified && is_region(region)).then(|| region.to_owned())
}

/// Whether it has the form of a region: words, then a number, as in `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [words @ .., number] = &parts[..] else { return false };
    let is_word = |word: &&str| word.len() >= 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
    words.len() >= 2
        && words.iter().all(is_word)
        && matches!(number.len(), 1 | 2)
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_region_is_read_from_every_documented_host_pattern() {
        let table = [
            ("orders.proxy-abc123.eu-west-1.rds.amazonaws.com", "eu-west-1"),
            ("orders-ro.endpoint.proxy-abc123.eu-west-1.rds.amazonaws.com", "eu-west-1"),
            ("db.cluster-abc123.us-east-2.rds.amazonaws.com", "us-east-2"),
            ("db.cluster-ro-abc123.us-east-2.rds.amazonaws.com", "us-east-2"),
            ("db.cluster-custom-abc123.us-east-2.rds.amazonaws.com", "us-east-2"),
            ("db.abc123.ap-southeast-2.rds.amazonaws.com", "ap-southeast-2"),
            ("db.shardgrp-abc123.eu-central-1.rds.amazonaws.com", "eu-central-1"),
            ("db.cluster-abc123.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("db.proxy-abc123.rds.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
            ("db.cluster-ro-abc123.cn-northwest-1.rds.amazonaws.com.cn", "cn-northwest-1"),
            ("db.abc123.cn-north-1.rds.amazonaws.com.cn", "cn-north-1"),
            ("db.cluster-abc123.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
            ("db.cluster-abc123.rds.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
            ("db.cluster-abc123.rds.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
            ("db.abc123.rds.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
            ("db.cluster-abc123.us-iso-west-1.rds.c2s.ic.gov", "us-iso-west-1"),
            ("db.cluster-abc123.us-east-1.rds-fips.amazonaws.com", "us-east-1"),
            ("db.cluster-abc123.rds-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("db.cluster-abc123.eusc-de-east-1.rds.amazonaws.eu", "eusc-de-east-1"),
            ("db.cluster-abc123.ap-southeast-2.rds.amazonaws.au", "ap-southeast-2"),
            ("db.cluster-abc123.eu-west-2.rds.amazonaws.uk", "eu-west-2"),
            ("orders.proxy-abc123.eu-west-1.rds.amazonaws.com.", "eu-west-1"),
            ("ORDERS.PROXY-ABC123.EU-WEST-1.RDS.AMAZONAWS.COM", "eu-west-1"),
        ];
        for (host, region) in table {
            assert_eq!(region_of(host).as_deref(), Some(region), "{host}");
        }
    }

    #[test]
    fn other_hosts_tell_no_region() {
        let hosts = [
            "",
            ".",
            "localhost",
            "10.0.0.1",
            "::1",
            "example.com",
            "db.global-abc123.global.rds.amazonaws.com",
            "db.proxy-abc123.eu-west-1.rds.amazonaws.com.attacker.com",
            "rds.amazonaws.com.attacker.com",
            "db.proxy-abc123.eu-west-1.rds.amazonaws.com.cn.attacker.com",
            "db.proxy-abc123.eu-west-1.rds.evilamazonaws.com",
            "db.proxy-abc123.eu-west-1.rds.amazonaws.org",
            "db.proxy-abc123.eu-west-1.ec2.amazonaws.com",
            "rds.eu-west-1.amazonaws.com",
            "eu-west-1.rds.amazonaws.com",
            "proxy-abc123.eu-west-1.rds.amazonaws.com",
            ".proxy-abc123.eu-west-1.rds.amazonaws.com",
            "db.proxy-.eu-west-1.rds.amazonaws.com",
            "db.proxy-abc123.somewhere.rds.amazonaws.com",
            "db.proxy-abc123.eu-west-x.rds.amazonaws.com",
            "db.proxy-abc123.1.rds.amazonaws.com",
        ];
        for host in hosts {
            assert_eq!(region_of(host), None, "{host}");
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        let table = [
            ("localhost", "localhost", None),
            (" localhost:5433\n", "localhost", Some(5433)),
            ("db.example.com.", "db.example.com", None),
            ("DB.example.com.:1", "db.example.com", Some(1)),
            ("db_1.example.com:65535", "db_1.example.com", Some(65535)),
            ("10.0.0.1:5432", "10.0.0.1", Some(5432)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[2001:DB8::1]:5432", "2001:db8::1", Some(5432)),
        ];
        for (text, host, port) in table {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_reason() {
        let long = "a.".repeat(130);
        let label = "a".repeat(64);
        let table = [
            ("", "is empty"),
            (" ", "is empty"),
            (".", "1 to 63 bytes"),
            ("a..b", "1 to 63 bytes"),
            (&*label, "1 to 63 bytes"),
            (&*long, "longer than 253"),
            ("postgres://u:hunter2@db", "is a URL"),
            ("u:hunter2@db", "holds an `@`"),
            ("/var/run/postgresql", "only letters"),
            ("db example", "only letters"),
            ("db/name", "only letters"),
            ("dätabase", "only letters"),
            ("-db", "begin or end"),
            ("db:", "\"\" is not a port"),
            ("db:0", "\"0\" is not a port (1 to 65535)"),
            ("db:65536", "\"65536\" is not a port (1 to 65535)"),
            ("db:+5", "\"+5\" is not a port"),
            ("db:54x", "\"54x\" is not a port"),
            (":5432", "1 to 63 bytes"),
            ("a:b:c", "only letters"),
            ("[::1", "without its `]`"),
            ("[::1]5432", "after its `]`"),
            ("[localhost]:1", "not an IPv6 address"),
            ("256.1.1.1", "not an IP address"),
            ("fe80::1%eth0", "only letters"),
        ];
        for (text, reason) in table {
            let refused = Endpoint::parse(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_text_makes_it_panic_and_what_is_taken_is_taken_again(text in "\\PC{0,40}|[a-zA-Z0-9.:\\[\\]-]{0,40}") {
            let _ = region_of(&text);
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert_eq!(Endpoint::parse(endpoint.host()), Ok(endpoint.clone().with_port(None)));
                prop_assert_ne!(endpoint.port(), Some(0));
            }
        }
    }
}
