//! Random pieces of what begins and ends literals, names and comments, which a lexer may cut in another way than a server.

use fastrand::Rng;

use super::{Oracle, cases};

/// What a session can be set to that changes how its texts are read.
pub(in crate::engine::postgres) const SETTINGS: &[&str] = &[
    "",
    "SET standard_conforming_strings = off",
    "SET standard_conforming_strings = off; SET backslash_quote = on",
    "SET backslash_quote = off",
    "SET client_encoding = SJIS",
    "SET client_encoding = SHIFT_JIS_2004",
    "SET client_encoding = BIG5",
    "SET client_encoding = GBK",
    "SET client_encoding = GB18030",
    "SET client_encoding = UHC",
    "SET client_encoding = JOHAB",
    "SET client_encoding = LATIN1; SET standard_conforming_strings = off",
];

#[rustfmt::skip]
const PIECES: &[&str] = &[
    "'", "'", "'", "\"", "$", "$$", "$$", "$a$", "$a$", "$1", "$1$", "$é$", "$\u{a0}$", "$a\u{a0}$", "\\", "\\'", "\\\\", "E'", "e'",
    "E'\\'", "U&'", "U&\"", "X'", "x'\\'", "B'", "b\"", "N'", "n'", "--", "/*", "*/", "/", "*", "-", "\n", "\r", "\t", " ", " ", "\u{b}",
    "\u{85}", "\u{a0}", "\u{2028}", "\u{feff}", "é", "Á", "ば", "表", "\u{81}", "😀", ",", ",", "1", "0x", "1e", "1_", "a", "x", ".", ":", "::",
    "(", ")", "[", "]", "+", "@", "#", "?", "|", "%", "`", "UESCAPE", "UESCAPE '!'", " UESCAPE'+'", "!006e", "\\006e", "\\x27", "\\47",
    "\\u0027", ";", "; SELECT touch('x'); ", ";SELECT touch($q$x$q$);", ";SELECT touch(text(1));--", "touch(text(1))", ", f(1)", "f(1)",
    "FROM t", " INTO y ", "\"f\"(1)", "U&\"!0066\" UESCAPE '!' (1)", "''", "''", "\"\"", "1.", ".5", "AS", "'a'\n'b'", "'a' --\n 'b'",
];

/// Whole literals with a tail, so that texts which the server accepts are not too rare.
#[rustfmt::skip]
const ITEMS: &[&str] = &[
    "'{}'", "E'{}'", "$${}$$", "$a${}$a$", "U&'{}'", "N'{}'", "X'{}'", "B'{}'", "1 AS \"{}\"", "/*{}*/ 1", "1 --{}\n", "$é${}$é$",
    "U&'{}' UESCAPE '!'", "1 AS U&\"{}\"", "{}1", "'{}'\n'{}'", "E'{}' --{}\n '{}'", "$1{}", "a{}", "(1){}", "1 AS a{}",
];

/// Literals that would let a write out, were they to end earlier than the lexer thinks.
const TRAPS: &[&str] = &[
    "'{}; SELECT touch(text(1)) --'",
    "E'{}; SELECT touch(text(1)) --'",
    "N'{}; SELECT touch(text(1)) --'",
    "X'{}; SELECT touch(text(1)) --'",
    "B'{}; SELECT touch(text(1)) --'",
    "U&'{}; SELECT touch(text(1)) --'",
    "1 AS \"{}; SELECT touch(text(1)) --\"",
    "$${}; SELECT touch(text(1)) --$$",
    "$a${}; SELECT touch(text(1)) --$a$",
    "1 /*{}; SELECT touch(text(1)) --*/",
];

/// What could spring them.
#[rustfmt::skip]
const SPRINGS: &[&str] = &[
    "'", "''", "\\", "\\'", "\\''", "'\n'", "\"", "\"\"", "$", "$$", "$a", "Á", "é", "表", "*/", "/*", "--", "\n", "\r", "a", " ",
];

fn soup(rng: &mut Rng, pieces: &[&str], longest: usize) -> String {
    (0..rng.usize(..longest)).map(|_| pieces[rng.usize(..pieces.len())]).collect()
}

/// A text of such pieces that begins with `SELECT`.
pub(in crate::engine::postgres) fn text(rng: &mut Rng) -> String {
    let mut items = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let (kinds, pieces) = if rng.bool() { (ITEMS, PIECES) } else { (TRAPS, SPRINGS) };
        let mut item = kinds[rng.usize(..kinds.len())].to_owned();
        while let Some(at) = item.find("{}") {
            item.replace_range(at..at + 2, &soup(rng, pieces, 5));
        }
        items.push(item);
    }
    let tail = if rng.u8(..4) == 0 { soup(rng, PIECES, 8) } else { String::new() };
    format!("SELECT {}{tail}", items.join(if rng.u8(..8) == 0 { " " } else { ", " }))
}

#[tokio::test]
async fn the_server_sees_no_write_where_the_lexer_sees_none() {
    let Some(mut oracle) = Oracle::start().await else { return };
    let mut rng = Rng::with_seed(2);
    let each = cases(6000) / SETTINGS.len();
    for settings in SETTINGS {
        oracle.set(settings).await;
        let tally = oracle.judge((0..each).map(|_| text(&mut rng))).await;
        println!("soup, {settings:?}: {tally:?}");
        assert!(tally.run * 20 > tally.texts && tally.accepted * 10 > tally.run, "the soup is too thin: {tally:?}");
    }
}
